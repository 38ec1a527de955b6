package dev.kar.conformance;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnknownFieldSet;
import dev.kar.hello.Sidecar;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentServiceGrpc;
import dev.kar.v1.ConnectRequest;
import dev.kar.v1.ConnectResponse;
import dev.kar.v1.Credit;
import dev.kar.v1.FlushRequest;
import dev.kar.v1.Hello;
import dev.kar.v1.HostedService;
import dev.kar.v1.InvokeRequest;
import dev.kar.v1.Payload;
import dev.kar.v1.Request;
import dev.kar.v1.SidecarFrame;
import dev.kar.v1.TurnOutcome;
import io.grpc.Channel;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;

/**
 * A component that misbehaves in one way, named by its argument, and says what it got for it. The cases and what is
 * expected stand in sdk-clients/conformance/nonsense.txt; {@code cargo xtask test} runs all of them.
 */
public final class Nonsense implements StreamObserver<ConnectResponse> {
    private static final int MIB = 1 << 20;

    private final String name;
    private final CountDownLatch done = new CountDownLatch(1);
    private StreamObserver<byte[]> toSidecar;

    private Nonsense(String name) {
        this.name = name;
    }

    public static void main(String[] args) throws InterruptedException {
        var nonsense = new Nonsense(args.length > 0 ? args[0] : "");
        var environment = new HashMap<>(System.getenv());
        if (nonsense.name.equals("wrong-api-token")) environment.put("KAR_API_TOKEN", "nonsense");
        var channel = Sidecar.connect(environment);
        nonsense.open(channel, environment);
        nonsense.done.await();
        channel.shutdownNow();
    }

    private void open(Channel channel, HashMap<String, String> environment) {
        var stub = Sidecar.authorized(ComponentServiceGrpc.newStub(channel), environment);
        var call = stub.getChannel().newCall(raw(), stub.getCallOptions());
        toSidecar = ClientCalls.asyncBidiStreamingCall(call, this);
        switch (name) {
            case "silence" -> { }
            case "no-hello" -> send(credit(1));
            default -> send(hello());
        }
    }

    /** {@code Connect}, but it sends bytes instead of messages, so that what no stub could send can be sent too. */
    private static MethodDescriptor<byte[], ConnectResponse> raw() {
        var method = ComponentServiceGrpc.getConnectMethod();
        var bytes = new MethodDescriptor.Marshaller<byte[]>() {
            @Override
            public InputStream stream(byte[] value) {
                return new ByteArrayInputStream(value);
            }

            @Override
            public byte[] parse(InputStream stream) {
                try {
                    return stream.readAllBytes();
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            }
        };
        return method.toBuilder(bytes, method.getResponseMarshaller()).build();
    }

    @Override
    public void onNext(ConnectResponse message) {
        for (SidecarFrame frame : message.getFramesList()) {
            switch (frame.getFrameCase()) {
                case WELCOME -> welcomed(frame.getWelcome().getRequestCredits());
                case INVOCATION -> invoked(frame.getInvocation().getTurnToken());
                case RESPONSE -> {
                    if (frame.getResponse().hasStatus()) {
                        report("answered", Sidecar.Error.of(frame.getResponse().getStatus()));
                    }
                }
                default -> { }
            }
        }
    }

    private void welcomed(int requestCredits) {
        switch (name) {
            case "two-hellos" -> send(hello());
            case "unknown-frame" -> {
                var nothing = UnknownFieldSet.Field.newBuilder().addLengthDelimited(ByteString.EMPTY).build();
                var fields = UnknownFieldSet.newBuilder().addField(99, nothing).build();
                send(ComponentFrame.newBuilder().setUnknownFields(fields));
            }
            case "garbage" -> {
                byte[] garbage = new byte[40];
                Arrays.fill(garbage, (byte) 0xff);
                toSidecar.onNext(garbage);
            }
            case "no-operation" -> send(request(1, Request.newBuilder()));
            case "credit-overrun" -> {
                for (int id = 0; id <= requestCredits; id++) send(request(id, call(0)));
            }
            case "credit-of-nothing" -> send(credit(0));
            case "made-up-token", "result-of-a-client" -> send(finish("made/up"));
            case "large-payload" -> send(request(1, call(5 * MIB)));
            case "large-message" -> send(request(1, call(9 * MIB)));
            case "second-result", "ended-turn" -> { }
            default -> throw new IllegalArgumentException("no such case: '" + name + "'");
        }
    }

    private void invoked(String token) {
        if (name.equals("second-result")) send(finish(token), finish(token));
        if (name.equals("ended-turn")) {
            var flush = FlushRequest.newBuilder().setTurnToken(token);
            send(finish(token), request(1, Request.newBuilder().setFlush(flush)));
        }
    }

    @Override
    public void onError(Throwable thrown) {
        report("ended", Sidecar.Error.of(thrown));
    }

    @Override
    public void onCompleted() {
        report("ended", new Sidecar.Error(Status.Code.OK.value(), "", "without a word", Map.of()));
    }

    private void report(String what, Sidecar.Error error) {
        // The end that follows an answer is this program's own doing.
        if (done.getCount() == 0) return;
        String reason = error.reason().isEmpty() ? "(no reason)" : error.reason();
        System.out.println(what + " " + Status.fromCodeValue(error.code()).getCode() + " " + reason);
        System.err.println(error.message());
        done.countDown();
    }

    private void send(ComponentFrame.Builder... frames) {
        var message = ConnectRequest.newBuilder();
        for (var frame : frames) message.addFrames(frame);
        toSidecar.onNext(message.build().toByteArray());
    }

    private ComponentFrame.Builder hello() {
        var hello = Hello.newBuilder().setProtocolVersion(1).setSdk("nonsense-java");
        boolean hosts = switch (name) {
            case "made-up-token", "second-result", "ended-turn" -> true;
            default -> false;
        };
        if (hosts) hello.addServices(HostedService.newBuilder().setName("nonsense"));
        return ComponentFrame.newBuilder().setHello(hello);
    }

    private static ComponentFrame.Builder credit(int count) {
        return ComponentFrame.newBuilder().setCredit(Credit.newBuilder().setCount(count));
    }

    private static ComponentFrame.Builder request(long id, Request.Builder request) {
        return ComponentFrame.newBuilder().setRequest(request.setId(id));
    }

    /** A call that stays under way: nobody hosts that service. */
    private static Request.Builder call(int payloadBytes) {
        var payload = Payload.newBuilder().setData(ByteString.copyFrom(new byte[payloadBytes]));
        var invoke = InvokeRequest.newBuilder().setService("nobody").setMethod("m").setPayload(payload);
        return Request.newBuilder().setInvoke(invoke);
    }

    private static ComponentFrame.Builder finish(String token) {
        var payload = Payload.newBuilder()
                .setData(ByteString.copyFromUtf8("1")).setContentType("application/json");
        var outcome = TurnOutcome.newBuilder().setTurnToken(token).setPayload(payload);
        return ComponentFrame.newBuilder().setTurnResult(outcome);
    }
}
