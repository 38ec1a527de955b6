//! The KAR sidecar, the command line and their parts as a library, so that the binary, the demonstration and tests share
//! them.
