package dev.kar.events;

import dev.kar.hello.Host;
import dev.kar.v1.ActorStateServiceGetRequest;
import dev.kar.v1.ActorTarget;
import dev.kar.v1.ApplyRequest;
import dev.kar.v1.AttributeValues;
import dev.kar.v1.EventFilter;
import dev.kar.v1.Hello;
import dev.kar.v1.HostedActorType;
import dev.kar.v1.HostedMethod;
import dev.kar.v1.InvocationFrame;
import dev.kar.v1.Payload;
import dev.kar.v1.Request;
import dev.kar.v1.StateChange;
import dev.kar.v1.StateEntry;
import dev.kar.v1.SubscribeRequest;
import dev.kar.v1.Subscription;
import dev.kar.v1.Target;

/**
 * Hosts the actor type {@code Sum}, and has the numbers of a topic delivered to it, without an SDK: each instance adds
 * up the numbers that have its id as their key.
 *
 * <pre>
 * kar topic create --app numbers numbers
 * kar run --app numbers --actors Sum -- sdk-clients/java/start sums numbers
 * kar publish --app numbers numbers 5 --type number --key alice
 * kar call --app numbers --actor Sum alice total
 * </pre>
 */
public final class Sums {
    /** Where an instance keeps its sum. */
    private static final String KEY = "total";

    private final Host host = new Host(this::run);

    private Sums() {}

    public static void main(String[] args) {
        if (args.length != 1) {
            System.err.println("usage: sums TOPIC");
            System.exit(1);
        }
        var type = HostedActorType.newBuilder()
                .setName("Sum")
                .addMethods(HostedMethod.newBuilder().setName("add"))
                .addMethods(HostedMethod.newBuilder().setName("total").setShared(true));
        var sums = new Sums();
        sums.host.run(
                Hello.newBuilder().setSdk("sums-java/0.1.0").addActorTypes(type), () -> sums.subscribe(args[0]));
    }

    /** There may be such a subscription: then it goes on where it is. It outlives this process. */
    private void subscribe(String topic) throws InterruptedException {
        var numbers = AttributeValues.newBuilder().putAttributes("type", "number");
        var subscription = Subscription.newBuilder()
                .setName("sums")
                .setTopic(topic)
                .setTarget(Target.newBuilder().setActor(ActorTarget.newBuilder().setType("Sum")))
                .setInstanceAttribute("partitionkey")
                .setMethod("add")
                .setFilter(EventFilter.newBuilder().setExact(numbers));
        host.request(Request.newBuilder()
                .setSubscribe(SubscribeRequest.newBuilder().setSubscription(subscription)));
    }

    private Payload run(InvocationFrame invocation) throws Exception {
        return switch (invocation.getMethod()) {
            case "add" -> Host.json(add(invocation));
            case "total" -> Host.json(read(invocation.getTurnToken()));
            default -> throw new Host.Failure(
                    "kar.UNKNOWN_METHOD", "Sum has no method '" + invocation.getMethod() + "'; it has: add, total");
        };
    }

    /**
     * Is told of an event. Its data are the argument, {@code getEvent} has the rest; so the method can be called, too.
     * That it returns is the acknowledgement: the sum is durable together with it, and the event is not delivered
     * again. If it fails the event is a dead letter; if this process is killed the event comes again, and what was
     * written is not there.
     */
    private long add(InvocationFrame invocation) throws Exception {
        Long number = Host.parse(invocation.getPayload(), Long.class);
        if (number == null) {
            String text = invocation.getPayload().getData().toStringUtf8();
            throw new Host.Failure("not_a_number", text + " is no number");
        }
        long total = read(invocation.getTurnToken()) + number;
        var change = StateChange.newBuilder()
                .setSet(StateEntry.newBuilder().setKey(KEY).setValue(Host.json(total)));
        host.request(Request.newBuilder().setActorStateApply(
                ApplyRequest.newBuilder().setTurnToken(invocation.getTurnToken()).addChanges(change)));
        String from = invocation.hasEvent() ? invocation.getEvent().getPosition() : "a call";
        System.err.println(from + ": " + number + " makes " + total);
        return total;
    }

    private long read(String turnToken) throws InterruptedException {
        var answer = host.request(Request.newBuilder().setActorStateGet(
                ActorStateServiceGetRequest.newBuilder().setTurnToken(turnToken).addKeys(KEY)));
        Payload known = answer.getActorStateGet().getEntriesMap().get(KEY);
        return known == null ? 0 : Host.parse(known, Long.class);
    }
}
