"""The contract between a component and its sidecar, generated from `proto/kar/v1` by the build.

The SDK is made of it; programs need it only for what the SDK does not offer, for example the
unary stubs of `kar.v1.system_pb2_grpc`.
"""
