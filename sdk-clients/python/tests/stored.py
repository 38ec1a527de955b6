"""An actor's state as the sidecar keeps it, with its sub-maps and conditions."""

from __future__ import annotations

from typing import Any

import grpc
from fake import Peer
from google.rpc import status_pb2
from scripted import status

from kar.v1 import common_pb2, state_pb2
from kar.v1 import component_pb2 as v1

Map = dict[str, common_pb2.Payload]


class Stored:
    """Answers what turns of one actor ask of its state. Reads see what was written before; nobody aborts."""

    def __init__(self, page_max: int = 1_000) -> None:
        self.maps: dict[str, Map] = {}
        """Its own keys under the empty name, and the sub-maps."""
        self.page_max = page_max
        """Entries of a page at most, whatever is asked for."""
        self.asked: list[v1.Request] = []
        """Everything that was answered."""

    async def run(self, peer: Peer, method: str, argument: str = "null") -> v1.TurnOutcome:
        """Runs a turn of the actor `Shelf/s`."""
        await peer.invoke("t", method, argument, actor=("Shelf", "s"))
        while not (frame := await peer.frame()).HasField("turn_result"):
            await peer.answer(frame.request, **self.answer(frame.request))
        assert frame.turn_result.turn_token == "t"
        return frame.turn_result

    def answer(self, request: v1.Request) -> dict[str, Any]:
        """The answer to a request, as what it is made of."""
        self.asked.append(request)
        operation = request.WhichOneof("operation")
        assert operation is not None
        fields = getattr(request, operation)
        answer = getattr(self, f"_{operation}")(fields)
        return {"status" if isinstance(answer, status_pb2.Status) else operation: answer}

    def _actor_state_get(self, fields: state_pb2.ActorStateServiceGetRequest) -> Any:
        entries = self._map(fields.sub_map)
        found = {key: entries[key] for key in fields.keys if key in entries}
        return state_pb2.ActorStateServiceGetResponse(entries=found)

    def _actor_state_get_all(self, fields: state_pb2.GetAllRequest) -> Any:
        return state_pb2.GetAllResponse(entries=self._map(""))

    def _actor_state_contains(self, fields: state_pb2.ContainsRequest) -> Any:
        return state_pb2.ContainsResponse(exists=fields.key in self._map(fields.sub_map))

    def _actor_state_sub_map_size(self, fields: state_pb2.GetSubMapSizeRequest) -> Any:
        return state_pb2.GetSubMapSizeResponse(size=len(self._map(fields.sub_map)))

    def _actor_state_list_sub_map(self, fields: state_pb2.ListSubMapRequest) -> Any:
        entries = sorted(self._map(fields.sub_map).items(), key=lambda entry: entry[0].encode())
        rest = [entry for entry in entries if entry[0] > fields.page_token]
        count = min(fields.page_size or 100, self.page_max)
        page = [state_pb2.StateEntry(key=key, value=value) for key, value in rest[:count]]
        after = page[-1].key if len(rest) > count else ""
        return state_pb2.ListSubMapResponse(entries=page, next_page_token=after)

    def _actor_state_apply(self, fields: state_pb2.ApplyRequest) -> Any:
        maps = {name: dict(entries) for name, entries in self.maps.items()}
        for change in fields.changes:
            failed = _changed(maps, change)
            if failed is not None:
                about = {"key": failed.key, "sub_map": failed.sub_map}
                return status(grpc.StatusCode.ABORTED, "CONDITION_FAILED", **about)
        self.maps = {name: entries for name, entries in maps.items() if entries}
        return state_pb2.ApplyResponse()

    def _map(self, name: str) -> Map:
        return self.maps.get(name, {})


def _changed(maps: dict[str, Map], change: state_pb2.StateChange) -> state_pb2.StateCondition | None:
    """Makes a change, or tells which condition does not hold."""
    match change.WhichOneof("change"):
        case "set":
            maps.setdefault("", {})[change.set.key] = change.set.value
        case "remove":
            maps.get("", {}).pop(change.remove, None)
        case "clear":
            assert change.clear
            maps.clear()
        case "set_in_sub_map":
            entry = change.set_in_sub_map
            assert entry.key.sub_map
            maps.setdefault(entry.key.sub_map, {})[entry.key.key] = entry.value
        case "remove_from_sub_map":
            where = change.remove_from_sub_map
            maps.get(where.sub_map, {}).pop(where.key, None)
        case "clear_sub_map":
            maps.pop(change.clear_sub_map, None)
        case "require":
            require = change.require
            wanted = require.value if require.HasField("value") else None
            return None if maps.get(require.sub_map, {}).get(require.key) == wanted else require
        case other:
            raise AssertionError(other)
    return None
