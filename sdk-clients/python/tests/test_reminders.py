"""Reminders: in turns with their tokens, for clients without."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest
from fake import asynchronous, connected, hosting, json

import kar
from kar.v1 import component_pb2 as v1
from kar.v1 import reminder_pb2


class Clock(kar.Actor):
    """Sets and cancels."""

    @kar.method
    async def plan(self) -> str:
        """Schedules one, and cancels all others."""
        tea = kar.Reminder("tea", "pour", 2, timedelta(minutes=1))
        due = await self.reminders.schedule(tea)
        assert await self.reminders.cancel("old")
        assert [one.id for one in await self.reminders.list()] == ["tea"]
        return due.isoformat()


@asynchronous
async def test_in_a_turn_they_carry_its_token(tmp_path: Path) -> None:
    async with hosting(tmp_path, Clock) as (_, peer, _host):
        await peer.invoke("t1", "plan", actor=("Clock", "tower"))
        request = await peer.request("reminder_schedule")
        schedule = request.reminder_schedule
        assert schedule.turn_token == "t1"
        wanted = schedule.reminder
        assert (wanted.actor.type, wanted.actor.id) == ("Clock", "tower")
        assert (wanted.id, wanted.method, wanted.payload.data) == ("tea", "pour", b"2")
        assert wanted.catch_up_policy == reminder_pb2.CATCH_UP_POLICY_ONCE
        assert wanted.WhichOneof("recurrence") is None
        ahead = wanted.due_time.ToDatetime(timezone.utc) - datetime.now(timezone.utc)
        assert timedelta(seconds=50) < ahead <= timedelta(minutes=1)
        response = v1.Response(id=request.id)
        response.reminder_schedule.due_time.FromSeconds(0)
        await peer.send(v1.SidecarFrame(response=response))
        request = await peer.request("reminder_cancel")
        assert (request.reminder_cancel.turn_token, request.reminder_cancel.id) == ("t1", "old")
        response = v1.Response(id=request.id)
        response.reminder_cancel.cancelled = 1
        await peer.send(v1.SidecarFrame(response=response))
        request = await peer.request("reminder_list")
        assert request.reminder_list.turn_token == "t1"
        response = v1.Response(id=request.id)
        response.reminder_list.reminders.add().CopyFrom(wanted)
        await peer.send(v1.SidecarFrame(response=response))
        assert (await peer.outcome()).payload.data == b'"1970-01-01T00:00:00+00:00"'


@asynchronous
async def test_clients_have_those_of_any_actor(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        reminders = client.reminders(Clock, "tower")
        daily = kar.Cron("30 9 * * 1-5", "Asia/Tokyo")
        news = kar.Reminder("news", "read", every=daily, catch_up=kar.CatchUp.EACH)
        scheduling = asyncio.create_task(reminders.schedule(news))
        request = await peer.request("reminder_schedule")
        wanted = request.reminder_schedule.reminder
        assert not request.reminder_schedule.turn_token
        # When it is due is found by the sidecar.
        assert not wanted.HasField("due_time")
        assert (wanted.cron.expression, wanted.cron.time_zone) == ("30 9 * * 1-5", "Asia/Tokyo")
        await peer.refuse(request, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        with pytest.raises(kar.Rejected):
            await scheduling
        listing = asyncio.create_task(client.reminders("Clock", "tower").list())
        request = await peer.request("reminder_list")
        response = v1.Response(id=request.id)
        one = response.reminder_list.reminders.add()
        one.CopyFrom(wanted)
        one.payload.CopyFrom(json("7"))
        one.due_time.FromSeconds(60)
        one.period.FromMilliseconds(1500)
        await peer.send(v1.SidecarFrame(response=response))
        [listed] = await listing
        assert listed.argument.decode(int) == 7
        assert listed.every == timedelta(seconds=1.5)
        assert (listed.id, listed.catch_up) == ("news", kar.CatchUp.EACH)
        assert listed.due == datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)
        with pytest.raises(ValueError, match="cancel_all"):
            await reminders.cancel("")
