//! The KAR contract: the protobuf definitions under `proto/` and the Rust code generated from them.
//!
//! [`v1`] is what components speak to their sidecar; [`log`], [`peer`] and [`hub`] are spoken between KAR's own
//! processes or stored. Nothing here decides anything.

pub mod codec;

/// The public API between a component and its sidecar (package `kar.v1`).
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("kar.v1");
}

/// The standard error model of gRPC (package `google.rpc`).
pub mod google {
    /// `google.rpc`.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub)]
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// Records stored in the logs of partitions.
pub mod log {
    /// Version 1 of the stored records (package `kar.log.v1`); only compatible changes are ever made to it.
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("kar.log.v1");
    }
}

/// What sidecars say to each other.
pub mod peer {
    /// Version 1 of the peer plane (package `kar.peer.v1`).
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("kar.peer.v1");
    }
}

/// What a sidecar says to the local hub.
pub mod hub {
    /// Version 1 of the hub's protocol (package `kar.hub.v1`).
    #[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub)]
    pub mod v1 {
        tonic::include_proto!("kar.hub.v1");
    }
}

/// Every file descriptor of the contract with its comments, encoded as a `google.protobuf.FileDescriptorSet`; gRPC
/// server reflection serves it.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/kar_descriptor.bin"));
