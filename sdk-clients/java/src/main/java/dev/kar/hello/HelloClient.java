package dev.kar.hello;

import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import dev.kar.v1.ApplicationError;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentServiceGrpc;
import dev.kar.v1.ConnectRequest;
import dev.kar.v1.ConnectResponse;
import dev.kar.v1.Hello;
import dev.kar.v1.InvocationServiceGrpc;
import dev.kar.v1.InvokeRequest;
import dev.kar.v1.InvokeResponse;
import dev.kar.v1.Payload;
import dev.kar.v1.Request;
import dev.kar.v1.Response;
import dev.kar.v1.SidecarFrame;
import io.grpc.Channel;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;

/**
 * Calls {@code greeter.hello} twice: by a unary RPC, which is all that a program needs that calls now and then, and
 * as a request on the component's stream, which costs the sidecar a tenth and is what an SDK does.
 *
 * <pre>kar run --app hello -- sdk-clients/java/start hello-client Alan</pre>
 */
public final class HelloClient {
    /** How long this program waits. The call itself goes on: it was accepted, so it is carried out. */
    private static final long PATIENCE_SECONDS = 60;

    private static final Gson JSON = new Gson();

    private HelloClient() {}

    public static void main(String[] args) {
        String name = args.length > 0 ? args[0] : "world";
        var channel = Sidecar.connect(System.getenv());
        try {
            System.out.println(greeting(unary(channel, name)));
            System.out.println(greeting(onStream(channel, name)));
        } catch (StatusRuntimeException e) {
            fail(Sidecar.Error.of(e).toString());
        } catch (CompletionException | IllegalStateException e) {
            fail((e.getCause() == null ? e : e.getCause()).getMessage());
        } finally {
            channel.shutdownNow();
        }
    }

    private static void fail(String message) {
        System.err.println(message);
        System.exit(1);
    }

    private static InvokeResponse unary(Channel channel, String name) {
        var stub = Sidecar.authorized(InvocationServiceGrpc.newBlockingStub(channel), System.getenv());
        return stub.withDeadlineAfter(PATIENCE_SECONDS, TimeUnit.SECONDS).invoke(request(name));
    }

    /** The same on a stream that hosts nothing. One call; an SDK keeps the stream, and a table of requests by id. */
    private static InvokeResponse onStream(Channel channel, String name) {
        var stub = Sidecar.authorized(ComponentServiceGrpc.newStub(channel), System.getenv());
        var answer = new CompletableFuture<InvokeResponse>();
        var welcome = new CompletableFuture<Void>();
        var toSidecar = stub.withDeadlineAfter(PATIENCE_SECONDS, TimeUnit.SECONDS)
                .connect(new StreamObserver<ConnectResponse>() {
                    @Override
                    public void onNext(ConnectResponse message) {
                        for (SidecarFrame frame : message.getFramesList()) {
                            if (frame.hasWelcome()) welcome.complete(null);
                            if (frame.hasResponse()) take(frame.getResponse(), answer);
                        }
                    }

                    @Override
                    public void onError(Throwable thrown) {
                        end(Sidecar.Error.of(thrown).toString());
                    }

                    @Override
                    public void onCompleted() {
                        end("the sidecar closed the stream");
                    }

                    private void end(String reason) {
                        welcome.completeExceptionally(new IllegalStateException(reason));
                        answer.completeExceptionally(new IllegalStateException(reason));
                    }
                });
        var hello = Hello.newBuilder().setProtocolVersion(Sidecar.PROTOCOL_VERSION).setSdk("hello-java/0.1.0");
        toSidecar.onNext(message(ComponentFrame.newBuilder().setHello(hello)));
        // The welcome says how many requests may be under way (`request_credits`); one is always fine.
        welcome.join();
        var request = Request.newBuilder().setId(1).setInvoke(request(name));
        toSidecar.onNext(message(ComponentFrame.newBuilder().setRequest(request)));
        try {
            return answer.join();
        } finally {
            // Nobody is hosted here, so there is nothing to hand over: closing this side is enough.
            toSidecar.onCompleted();
        }
    }

    private static void take(Response response, CompletableFuture<InvokeResponse> answer) {
        switch (response.getResultCase()) {
            case INVOKE -> answer.complete(response.getInvoke());
            case STATUS -> answer.completeExceptionally(
                    new IllegalStateException(Sidecar.Error.of(response.getStatus()).toString()));
            default -> answer.completeExceptionally(
                    new IllegalStateException("the answer does not fit the request"));
        }
    }

    private static ConnectRequest message(ComponentFrame.Builder frame) {
        return ConnectRequest.newBuilder().addFrames(frame).build();
    }

    private static InvokeRequest request(String name) {
        var payload = Payload.newBuilder()
                .setData(ByteString.copyFromUtf8(JSON.toJson(Map.of("name", name))))
                .setContentType("application/json");
        return InvokeRequest.newBuilder()
                .setService("greeter").setMethod("hello").setPayload(payload).build();
    }

    /** What the method returned; throws what the application failed with. */
    private static String greeting(InvokeResponse response) {
        return switch (response.getResultCase()) {
            case PAYLOAD -> JSON.fromJson(response.getPayload().getData().toStringUtf8(), String.class);
            case ERROR -> throw failure(response.getError());
            case RESULT_NOT_SET -> throw new IllegalStateException(
                    "the response has no result that this version knows");
        };
    }

    private static IllegalStateException failure(ApplicationError error) {
        return new IllegalStateException("the method failed: " + error.getCode() + ": " + error.getMessage());
    }
}
