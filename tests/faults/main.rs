//! Processes killed at random moments: P1 to P5 on the real binary.

mod audit;
mod bank;
mod circles;
mod ears;
mod errands;
mod failover;
mod frozen;
mod full_disk;
mod hot_actor;
mod joins;
mod python_bank;
mod receipts;
mod reminder_storm;
mod removals;
mod rollback;
mod sdk_bank;
mod soak;
mod tail_loop;
mod transfers;
mod zombies;
