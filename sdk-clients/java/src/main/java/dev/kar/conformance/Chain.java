package dev.kar.conformance;

import dev.kar.hello.Host;
import dev.kar.v1.ActorTarget;
import dev.kar.v1.CallActorRequest;
import dev.kar.v1.Hello;
import dev.kar.v1.HostedActorType;
import dev.kar.v1.HostedMethod;
import dev.kar.v1.InvocationFrame;
import dev.kar.v1.Payload;
import dev.kar.v1.Request;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/**
 * An actor that waits for another one, in whichever language that is written: hosts the actor type {@code ChainJava}.
 * What it has to do stands in sdk-clients/README.md; {@code cargo xtask test} lets some of them wait in a circle.
 *
 * <pre>
 * kar run --app chain --actors ChainJava -- sdk-clients/java/start chain
 * </pre>
 */
public final class Chain {
    /** How often the gate is looked for. */
    private static final long TICK_MS = 5;

    private record Hold(String gate, List<String> next) {}

    private record Refused(String reason, String cycle) {}

    private final Host host = new Host(this::run);

    private Chain() {}

    public static void main(String[] args) {
        var type = HostedActorType.newBuilder().setName("ChainJava");
        type.addMethods(HostedMethod.newBuilder().setName("hold"));
        new Chain().host.run(Hello.newBuilder().setSdk("chain-java/0.1.0").addActorTypes(type), () -> { });
    }

    private Payload run(InvocationFrame invocation) throws Exception {
        if (invocation.getMethod().equals("hold")) return Host.json(hold(invocation));
        throw new Host.Failure(
                "kar.UNKNOWN_METHOD", "ChainJava has no method '" + invocation.getMethod() + "'; it has: hold");
    }

    /** Waits for a file, and then for another actor; tells why the sidecar refused that. */
    private Refused hold(InvocationFrame invocation) throws Exception {
        Hold order = Host.parse(invocation.getPayload(), Hold.class);
        // An interruption, which says that the turn is cancelled, ends this as well.
        while (!order.gate().isEmpty() && !Files.exists(Path.of(order.gate()))) Thread.sleep(TICK_MS);
        if (order.next().isEmpty()) return new Refused("", "");
        var actor = ActorTarget.newBuilder().setType(order.next().get(0)).setId(order.next().get(1));
        var call = CallActorRequest.newBuilder()
                .setActor(actor)
                .setMethod("hold")
                .setPayload(Host.json(new Hold("", List.of())))
                .setTurnToken(invocation.getTurnToken());
        try {
            var result = host.request(Request.newBuilder().setCallActor(call)).getCallActor();
            if (!result.hasPayload()) throw new IllegalStateException("the call failed: " + result.getError());
        } catch (Host.Refusal refusal) {
            var error = refusal.error();
            return new Refused(error.reason(), error.metadata().getOrDefault("cycle", ""));
        }
        return new Refused("", "");
    }
}
