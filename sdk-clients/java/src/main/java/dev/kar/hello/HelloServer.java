package dev.kar.hello;

import com.google.gson.Gson;
import com.google.gson.JsonParseException;
import com.google.protobuf.ByteString;
import dev.kar.v1.ApplicationError;
import dev.kar.v1.Cancelled;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentServiceGrpc;
import dev.kar.v1.ConnectRequest;
import dev.kar.v1.ConnectResponse;
import dev.kar.v1.Goodbye;
import dev.kar.v1.Hello;
import dev.kar.v1.HostedMethod;
import dev.kar.v1.HostedService;
import dev.kar.v1.InvocationFrame;
import dev.kar.v1.Payload;
import dev.kar.v1.SidecarFrame;
import dev.kar.v1.TurnOutcome;
import io.grpc.stub.StreamObserver;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * Hosts the service {@code greeter} on the component's stream, without an SDK: what is here is what an SDK has to do.
 *
 * <pre>
 * kar run --app hello --service greeter -- sdk-clients/java/start hello-server
 * kar call --app hello greeter hello '{"name":"Alan"}'
 * </pre>
 *
 * The guide to the frames is sdk-clients/README.md.
 */
public final class HelloServer implements StreamObserver<ConnectResponse> {
    /** Turns at once. It bounds this program's threads and memory: the sidecar holds the rest. */
    private static final int TURNS_MAX = 256;

    /** How long leaving may take: running turns, and the hand-over to other hosts. */
    private static final long DRAIN_TIMEOUT_SECONDS = 15;

    private static final Gson JSON = new Gson();

    /** A method. It is interrupted when its turn is cancelled. */
    private interface Method {
        String run(Argument argument) throws Exception;
    }

    private record Argument(String name, long millis) {}

    private static final Map<String, Method> METHODS = Map.of(
            "hello", argument -> "Hello, " + argument.name() + "!",
            "slow", argument -> {
                Thread.sleep(argument.millis());
                return "Hello, " + argument.name() + "!";
            });

    private final ExecutorService threads = Executors.newCachedThreadPool();
    /** Turns that run, by token. Each entry gets exactly one {@code turn_result}. Guarded by this. */
    private final Map<String, Turn> turns = new HashMap<>();
    /** Guarded by this. */
    private StreamObserver<ConnectRequest> toSidecar;
    /** Guarded by this. */
    private boolean drained;
    /** Guarded by this. */
    private boolean leaving;
    /** Says why the stream ended; empty if it was in order. */
    private final CompletableFuture<String> ended = new CompletableFuture<>();

    private HelloServer() {}

    public static void main(String[] args) {
        var channel = Sidecar.connect(System.getenv());
        var server = new HelloServer();
        server.start(Sidecar.authorized(ComponentServiceGrpc.newStub(channel), System.getenv()));
        // SIGTERM and SIGINT run this; the program would end with code 143 if it did not say otherwise.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(server.leave())));
        String problem = server.ended.join();
        if (!problem.isEmpty()) System.err.println("greeter ends: " + problem);
        // Past the hook: there is nobody to say goodbye to any more.
        Runtime.getRuntime().halt(problem.isEmpty() ? 0 : 1);
    }

    private synchronized void start(ComponentServiceGrpc.ComponentServiceStub stub) {
        toSidecar = stub.connect(this);
        var service = HostedService.newBuilder().setName("greeter");
        METHODS.keySet().forEach(name -> service.addMethods(HostedMethod.newBuilder().setName(name)));
        send(ComponentFrame.newBuilder().setHello(Hello.newBuilder()
                .setProtocolVersion(Sidecar.PROTOCOL_VERSION)
                .setSdk("hello-java/0.1.0")
                .addServices(service)
                .setInvocationCredits(TURNS_MAX)));
    }

    /**
     * Sends a frame. One thread at a time: a StreamObserver must not be called by two at once. Back pressure
     * ({@code CallStreamObserver.isReady}) needs no heed here: TURNS_MAX bounds what can wait to be written.
     */
    private synchronized void send(ComponentFrame.Builder frame) {
        if (ended.isDone()) return;
        toSidecar.onNext(ConnectRequest.newBuilder().addFrames(frame).build());
    }

    @Override
    public void onNext(ConnectResponse message) {
        message.getFramesList().forEach(this::take);
    }

    /** Takes what the sidecar says. Kinds of frames that this version does not know need no answer. */
    private synchronized void take(SidecarFrame frame) {
        switch (frame.getFrameCase()) {
            // 64 bits without a sign: Java's `long` would print the upper half as negative numbers.
            case WELCOME -> System.err.println("greeter hosts on node " + frame.getWelcome().getNode()
                    + ", incarnation " + Long.toUnsignedString(frame.getWelcome().getIncarnation()));
            case INVOCATION -> {
                var turn = new Turn(frame.getInvocation());
                turns.put(turn.invocation.getTurnToken(), turn);
                threads.execute(turn);
            }
            case CANCEL_TURN -> {
                // Its code stops, and then its result goes out. A turn that has answered already is not in the table.
                var turn = turns.get(frame.getCancelTurn().getTurnToken());
                if (turn != null) turn.cancel();
            }
            case DRAINED -> {
                drained = true;
                closeIfDone();
            }
            default -> { }
        }
    }

    /** The turn's code has ended: exactly one result. */
    private synchronized void finish(Turn turn, TurnOutcome.Builder outcome) {
        String token = turn.invocation.getTurnToken();
        turns.remove(token);
        send(ComponentFrame.newBuilder().setTurnResult(outcome.setTurnToken(token)));
        closeIfDone();
    }

    private void closeIfDone() {
        if (drained && turns.isEmpty()) toSidecar.onCompleted();
    }

    // An SDK would connect again here, with the same hello.
    @Override
    public void onError(Throwable thrown) {
        ended.complete(Sidecar.Error.of(thrown).toString());
    }

    @Override
    public synchronized void onCompleted() {
        ended.complete(leaving ? "" : "the sidecar closed the stream");
    }

    /** Leaves in order: no new turns come, those that run are finished, everything is handed over, then we close. */
    private int leave() {
        synchronized (this) {
            leaving = true;
            send(ComponentFrame.newBuilder().setGoodbye(Goodbye.getDefaultInstance()));
        }
        try {
            return ended.get(DRAIN_TIMEOUT_SECONDS, TimeUnit.SECONDS).isEmpty() ? 0 : 1;
        } catch (Exception e) {
            System.err.println("greeter ends: not handed over after " + DRAIN_TIMEOUT_SECONDS + " s");
            return 1;
        }
    }

    /** One turn, in a thread of its own. */
    private final class Turn implements Runnable {
        private final InvocationFrame invocation;
        private Thread thread;
        private boolean cancelled;

        Turn(InvocationFrame invocation) {
            this.invocation = invocation;
        }

        @Override
        public void run() {
            synchronized (this) {
                thread = Thread.currentThread();
            }
            var outcome = TurnOutcome.newBuilder();
            try {
                outcome.setPayload(call());
            } catch (Exception e) {
                outcome.setError(failure(e));
            }
            synchronized (this) {
                thread = null;
                // The interruption was meant for this turn, not for the thread's next one.
                Thread.interrupted();
                // A turn that was told to stop has no result of its own: another attempt has taken over.
                if (cancelled) outcome.setCancelled(Cancelled.getDefaultInstance());
            }
            finish(this, outcome);
        }

        /** Also right before the turn's thread has begun: then the code never runs. */
        synchronized void cancel() {
            cancelled = true;
            if (thread != null) thread.interrupt();
        }

        private Payload call() throws Exception {
            synchronized (this) {
                if (cancelled) throw new InterruptedException("cancelled before it began");
            }
            Method method = METHODS.get(invocation.getMethod());
            if (method == null) throw new UnknownMethod(invocation.getMethod());
            String greeting = method.run(argument(invocation.getPayload()));
            return Payload.newBuilder()
                    .setData(ByteString.copyFromUtf8(JSON.toJson(greeting)))
                    .setContentType("application/json")
                    .build();
        }
    }

    private static Argument argument(Payload payload) {
        Argument argument = null;
        try {
            argument = JSON.fromJson(payload.getData().toStringUtf8(), Argument.class);
        } catch (JsonParseException e) {
            // Said below.
        }
        if (argument == null || argument.name() == null) {
            throw new IllegalArgumentException("the argument must be like {\"name\":\"Alan\"}");
        }
        return argument;
    }

    /** An error of the application: it goes back to the caller and is not retried. */
    private static ApplicationError failure(Exception e) {
        var stack = new StringWriter();
        e.printStackTrace(new PrintWriter(stack));
        String code = e instanceof UnknownMethod ? "unknown_method" : e.getClass().getSimpleName();
        return ApplicationError.newBuilder()
                .setCode(code)
                .setMessage(String.valueOf(e.getMessage()))
                .setDetail(stack.toString())
                .build();
    }

    private static final class UnknownMethod extends Exception {
        private static final long serialVersionUID = 1L;

        UnknownMethod(String method) {
            super("greeter has no method '" + method + "'");
        }
    }
}
