//! The real binary over real sockets: one file per promise or surface.

mod bad_input;
mod bytes;
mod calls;
mod cli;
mod disk;
mod flows;
mod grpcurl;
mod hello;
mod start;
mod state;
mod tells;
mod twins;
mod unread;
