package dev.kar.hello;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;

import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentServiceGrpc;
import dev.kar.v1.ConnectRequest;
import dev.kar.v1.ConnectResponse;
import dev.kar.v1.Drained;
import dev.kar.v1.Hello;
import dev.kar.v1.InvocationFrame;
import dev.kar.v1.SidecarFrame;
import dev.kar.v1.TurnOutcome;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

/** The sample host on a stream whose other side is the test. */
final class HostTest {
    private static final long PATIENCE_SECONDS = 10;

    /** What the host sent, in order; empty: it closed its side. */
    private final BlockingQueue<Optional<ComponentFrame>> sent = new LinkedBlockingQueue<>();
    private ClientCall.Listener<ConnectResponse> toHost;

    @Test
    void aTurnHasAResultAlsoWhereItsExceptionCannotBeTold() throws InterruptedException {
        open(invocation -> {
            throw new Untellable();
        });
        take(SidecarFrame.newBuilder().setInvocation(InvocationFrame.newBuilder().setTurnToken("t")));
        TurnOutcome outcome = next().orElseThrow().getTurnResult();
        assertEquals("t", outcome.getTurnToken());
        assertEquals("Untellable", outcome.getError().getCode());
        take(SidecarFrame.newBuilder().setDrained(Drained.getDefaultInstance()));
        assertFalse(next().isPresent(), "nothing runs any more, so it closes its side");
    }

    @Test
    void anExceptionIsToldWithItsMessageAndWhereItCameFrom() throws InterruptedException {
        open(invocation -> {
            throw new Host.Failure("sold_out", "none left");
        });
        take(SidecarFrame.newBuilder().setInvocation(InvocationFrame.newBuilder().setTurnToken("t")));
        var error = next().orElseThrow().getTurnResult().getError();
        assertEquals("sold_out: none left", error.getCode() + ": " + error.getMessage());
        assertFalse(error.getDetail().isEmpty());
    }

    /** Fails when it is asked what happened. */
    private static final class Untellable extends RuntimeException {
        private static final long serialVersionUID = 1L;

        @Override
        public String getMessage() {
            throw new IllegalStateException("cannot be told");
        }
    }

    /** Begins to host, up to its hello. */
    private void open(Host.Code code) throws InterruptedException {
        new Host(code).open(ComponentServiceGrpc.newStub(new Scripted()), Hello.newBuilder());
        assertEquals(ComponentFrame.FrameCase.HELLO, next().orElseThrow().getFrameCase());
    }

    private void take(SidecarFrame.Builder frame) {
        toHost.onMessage(ConnectResponse.newBuilder().addFrames(frame).build());
    }

    private Optional<ComponentFrame> next() throws InterruptedException {
        var frame = sent.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
        assertNotNull(frame, "the host says nothing");
        return frame;
    }

    /** Leads to the test instead of to a sidecar. */
    private final class Scripted extends Channel {
        @Override
        public String authority() {
            return "test";
        }

        @Override
        @SuppressWarnings("unchecked") // There is one method only.
        public <Q, R> ClientCall<Q, R> newCall(MethodDescriptor<Q, R> method, CallOptions options) {
            return new ClientCall<>() {
                @Override
                public void start(Listener<R> listener, Metadata headers) {
                    toHost = (Listener<ConnectResponse>) listener;
                }

                @Override
                public void sendMessage(Q message) {
                    ((ConnectRequest) message).getFramesList().forEach(frame -> sent.add(Optional.of(frame)));
                }

                @Override
                public void halfClose() {
                    sent.add(Optional.empty());
                }

                @Override
                public void request(int count) { }

                @Override
                public void cancel(String message, Throwable cause) { }
            };
        }
    }
}
