package dev.kar.events;

import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import dev.kar.hello.Sidecar;
import dev.kar.v1.AttributeValues;
import dev.kar.v1.ConsumeRequest;
import dev.kar.v1.ConsumeResponse;
import dev.kar.v1.Event;
import dev.kar.v1.EventFilter;
import dev.kar.v1.EventServiceGrpc;
import dev.kar.v1.Payload;
import dev.kar.v1.PublishBatchRequest;
import dev.kar.v1.PublishRequest;
import io.grpc.Channel;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;

/**
 * Publishes to a topic by a unary RPC, and follows one on a consumer's stream, without an SDK.
 *
 * <pre>
 * kar topic create --app numbers numbers
 * kar run --app numbers -- sdk-clients/java/start events publish numbers alice 1 2 3
 * kar run --app numbers -- sdk-clients/java/start events follow numbers audit 3
 * </pre>
 *
 * {@code follow} prints each event and acknowledges it; the next one of its name goes on there.
 */
public final class Events {
    private static final String USAGE = "usage: events publish TOPIC KEY NUMBER… | follow TOPIC NAME COUNT";

    /** How long publishing is waited for. */
    private static final long PATIENCE_SECONDS = 60;

    /** Events that may be here and not printed yet. */
    private static final int AHEAD = 64;

    private static final Gson JSON = new Gson();

    private Events() {}

    public static void main(String[] args) {
        boolean publishes = args.length > 3 && args[0].equals("publish");
        boolean follows = args.length == 4 && args[0].equals("follow");
        if (!publishes && !follows) fail(USAGE);
        var channel = Sidecar.connect(System.getenv());
        try {
            if (publishes) {
                var numbers = Arrays.stream(args).skip(3).map(Long::valueOf).toList();
                publish(channel, args[1], args[2], numbers).forEach(System.out::println);
            } else {
                new Follower(Integer.parseInt(args[3])).follow(channel, args[1], args[2]);
            }
        } catch (StatusRuntimeException e) {
            fail(Sidecar.Error.of(e).toString());
        } catch (CompletionException e) {
            fail(Sidecar.Error.of(e.getCause()).toString());
        } finally {
            channel.shutdownNow();
        }
    }

    private static void fail(String message) {
        System.err.println(message);
        System.exit(1);
    }

    /** Publishes numbers with one key, in this order; tells where each is. */
    private static List<String> publish(Channel channel, String topic, String key, List<Long> numbers) {
        // Whoever sends the same request again, because the answer got lost, publishes nothing a second time.
        var batch = PublishBatchRequest.newBuilder().setRequestId(UUID.randomUUID().toString());
        for (long number : numbers) {
            var data = Payload.newBuilder()
                    .setData(ByteString.copyFromUtf8(JSON.toJson(number)))
                    .setContentType("application/json");
            var event = Event.newBuilder().setType("number").setData(data);
            batch.addEvents(
                    PublishRequest.newBuilder().setTopic(topic).setPartitionKey(key).setEvent(event));
        }
        var stub = Sidecar.authorized(EventServiceGrpc.newBlockingStub(channel), System.getenv());
        var answer = stub.withDeadlineAfter(PATIENCE_SECONDS, TimeUnit.SECONDS).publishBatch(batch.build());
        return answer.getEventsList().stream().map(event -> event.getPosition()).toList();
    }

    /** Prints and acknowledges so many events. Called by one thread at a time: that is how gRPC calls observers. */
    private static final class Follower implements ClientResponseObserver<ConsumeRequest, ConsumeResponse> {
        private final int count;
        private final Set<String> unsure = new HashSet<>();
        private final CompletableFuture<Void> end = new CompletableFuture<>();
        private ClientCallStreamObserver<ConsumeRequest> toSidecar;
        private int printed;

        Follower(int count) {
            this.count = count;
        }

        /** Returns when none of them comes again. */
        void follow(Channel channel, String topic, String name) {
            var filter = AttributeValues.newBuilder().putAttributes("type", "number");
            Sidecar.authorized(EventServiceGrpc.newStub(channel), System.getenv()).consume(this);
            toSidecar.onNext(ConsumeRequest.newBuilder()
                    .setTopic(topic)
                    .setConsumer(name)
                    .setCredits(AHEAD)
                    .setFilter(EventFilter.newBuilder().setExact(filter))
                    .setConfirm(true)
                    .build());
            try {
                end.join();
            } finally {
                toSidecar.cancel("enough", null);
            }
        }

        @Override
        public void beforeStart(ClientCallStreamObserver<ConsumeRequest> stream) {
            toSidecar = stream;
        }

        @Override
        public void onNext(ConsumeResponse answer) {
            unsure.removeAll(answer.getAcknowledgedList());
            // More may be on its way than was wanted; what is not acknowledged comes to the next one.
            if (answer.hasEvent() && printed < count) {
                printed += 1;
                String position = answer.getPosition();
                String data = answer.getEvent().getData().getData().toStringUtf8();
                System.out.println(position + " " + JSON.fromJson(data, Long.class));
                unsure.add(position);
                // It makes room for another one.
                toSidecar.onNext(
                        ConsumeRequest.newBuilder().addAcknowledged(position).setCredits(1).build());
            }
            if (printed == count && unsure.isEmpty()) end.complete(null);
        }

        @Override
        public void onError(Throwable thrown) {
            // An SDK would open it again here: the sidecar knows where the consumer is.
            end.completeExceptionally(thrown);
        }

        @Override
        public void onCompleted() {
            end.completeExceptionally(new IllegalStateException("the sidecar closed the stream"));
        }
    }
}
