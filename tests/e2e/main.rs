//! The real binary over real sockets: one file per promise or surface.

mod bad_input;
mod bytes;
mod calls;
mod caretakers;
mod cli;
mod cli_errors;
mod deadlock;
mod demo;
mod disk;
mod flows;
mod grpcurl;
mod hello;
mod hosting;
mod keys;
mod order;
mod philosophers;
mod policies;
mod python;
mod shared;
mod start;
mod state;
mod steps;
mod tail_calls;
mod tells;
mod twins;
mod unread;
