//! Processes killed at random moments: P1 to P5 on the real binary.

mod failover;
mod frozen;
mod hot_actor;
mod python_bank;
mod reminder_storm;
mod rollback;
mod sdk_bank;
mod tail_loop;
mod transfers;
