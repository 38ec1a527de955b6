package dev.kar.hello;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import io.netty.channel.epoll.EpollDomainSocketChannel;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.channel.unix.DomainSocketAddress;
import io.netty.util.concurrent.DefaultThreadFactory;
import java.util.Map;

/** How any program finds its sidecar, and how it reads the sidecar's errors. */
public final class Sidecar {
    /** Newest version of the stream's protocol that these samples speak. */
    public static final int PROTOCOL_VERSION = 1;

    /** Longest message accepted from the sidecar: 16 frames of 4 MiB. The library's own bound is 4 MiB. */
    private static final int RECEIVED_BYTES_MAX = 64 << 20;

    private Sidecar() {}

    /** A connection to where the sidecar listens: {@code kar run} puts that into the environment. */
    public static ManagedChannel connect(Map<String, String> environment) {
        String socket = environment.getOrDefault("KAR_SOCKET", "");
        String port = environment.getOrDefault("KAR_GRPC_PORT", "");
        NettyChannelBuilder channel;
        if (!socket.isEmpty()) {
            // Netty needs to be told all of this; its threads are daemons, so that they do not keep the program alive.
            var threads = new EpollEventLoopGroup(1, new DefaultThreadFactory("kar-socket", true));
            channel = NettyChannelBuilder.forAddress(new DomainSocketAddress(socket))
                    .eventLoopGroup(threads)
                    .channelType(EpollDomainSocketChannel.class)
                    // Otherwise the socket's path would be sent as `:authority`.
                    .overrideAuthority("localhost");
        } else if (!port.isEmpty()) {
            channel = NettyChannelBuilder.forAddress("127.0.0.1", Integer.parseInt(port));
        } else {
            throw new IllegalStateException(
                    "no sidecar to talk to: run this program under `kar run`, or set KAR_SOCKET");
        }
        // The socket is private to its user, so there is no TLS.
        return channel.usePlaintext().maxInboundMessageSize(RECEIVED_BYTES_MAX).build();
    }

    /** The same stub with the bearer token on every RPC, if the sidecar wants one. */
    public static <S extends AbstractStub<S>> S authorized(S stub, Map<String, String> environment) {
        String token = environment.getOrDefault("KAR_API_TOKEN", "");
        if (token.isEmpty()) return stub;
        var headers = new Metadata();
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
        return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
    }

    /**
     * An error of the sidecar, as opposed to one of the application.
     *
     * @param code gRPC status code
     * @param reason a name of {@code kar.v1.ErrorReason} without its prefix; empty if the error is not KAR's
     * @param message for people
     * @param metadata what to look at or to change: {@code field}, {@code limit}, {@code target}, …
     */
    public record Error(int code, String reason, String message, Map<String, String> metadata) {
        /** Reads the status that a response on the stream carries. */
        public static Error of(com.google.rpc.Status status) {
            for (var detail : status.getDetailsList()) {
                if (!detail.is(ErrorInfo.class)) continue;
                try {
                    ErrorInfo info = detail.unpack(ErrorInfo.class);
                    if (!info.getDomain().equals("kar")) continue;
                    return new Error(
                            status.getCode(), info.getReason(), status.getMessage(), info.getMetadataMap());
                } catch (InvalidProtocolBufferException broken) {
                    // The code and the message still tell something.
                    continue;
                }
            }
            return new Error(status.getCode(), "", status.getMessage(), Map.of());
        }

        /** Reads the status that ended an RPC: the same message travels in its trailers. */
        public static Error of(Throwable thrown) {
            var status = StatusProto.fromThrowable(thrown);
            if (status == null) {
                return new Error(io.grpc.Status.Code.UNKNOWN.value(), "", String.valueOf(thrown), Map.of());
            }
            Throwable cause = io.grpc.Status.fromThrowable(thrown).getCause();
            if (cause == null) return of(status);
            // The connection broke: the status says only "io exception", its cause says which.
            return of(status.toBuilder().setMessage(status.getMessage() + ": " + cause.getMessage()).build());
        }

        /** One line for people. */
        @Override
        public String toString() {
            var text = new StringBuilder(reason.isEmpty() ? "gRPC code " + code : reason);
            text.append(" · ").append(message);
            metadata.forEach((key, value) -> text.append(" · ").append(key).append('=').append(value));
            return text.toString();
        }
    }
}
