package dev.kar.hello;

import com.google.gson.Gson;
import com.google.gson.JsonParseException;
import com.google.protobuf.ByteString;
import dev.kar.v1.ApplicationError;
import dev.kar.v1.CancelReason;
import dev.kar.v1.Cancelled;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentServiceGrpc;
import dev.kar.v1.ConnectRequest;
import dev.kar.v1.ConnectResponse;
import dev.kar.v1.Goodbye;
import dev.kar.v1.Hello;
import dev.kar.v1.InvocationFrame;
import dev.kar.v1.Payload;
import dev.kar.v1.Request;
import dev.kar.v1.Response;
import dev.kar.v1.SidecarFrame;
import dev.kar.v1.TurnOutcome;
import io.grpc.stub.StreamObserver;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * A host on the component's stream, without an SDK: what is here is what an SDK has to do. The guide to the frames is
 * sdk-clients/README.md.
 */
public final class Host implements StreamObserver<ConnectResponse> {
    /** Turns at once. It bounds this program's threads and memory: the sidecar holds the rest. */
    private static final int TURNS_MAX = 256;

    /** How long leaving may take: running turns, and the hand-over to other hosts. */
    private static final long DRAIN_TIMEOUT_SECONDS = 15;

    private static final Gson JSON = new Gson();

    /** What a turn runs, in a thread of its own. It is interrupted when the turn is cancelled. */
    public interface Code {
        Payload run(InvocationFrame invocation) throws Exception;
    }

    /** What is done once the sidecar has welcomed the host. */
    public interface Beginning {
        void run() throws Exception;
    }

    /** An error of the application, with the code that the caller gets. */
    public static final class Failure extends Exception {
        private static final long serialVersionUID = 1L;

        private final String code;

        public Failure(String code, String message) {
            super(message);
            this.code = code;
        }
    }

    /** What the sidecar refused, or what became of it on the way: an error of KAR. */
    public static final class Refusal extends IllegalStateException {
        private static final long serialVersionUID = 1L;

        private final transient Sidecar.Error error;

        Refusal(Sidecar.Error error) {
            super(error.toString());
            this.error = error;
        }

        public Sidecar.Error error() {
            return error;
        }
    }

    private final Code code;
    private final ExecutorService threads = Executors.newCachedThreadPool();
    /** Turns that run, by token. Each entry gets exactly one {@code turn_result}. Guarded by this. */
    private final Map<String, Turn> turns = new HashMap<>();
    /** What was asked for and not answered yet. Guarded by this. */
    private final Map<Long, CompletableFuture<Response>> waiting = new HashMap<>();
    /** Guarded by this. */
    private long requests;
    /** Guarded by this. */
    private StreamObserver<ConnectRequest> toSidecar;
    /** Guarded by this. */
    private boolean drained;
    /** Guarded by this. */
    private boolean leaving;
    /** The sidecar has welcomed it. */
    private final CompletableFuture<Void> welcomed = new CompletableFuture<>();
    /** Says why the stream ended; empty if it was in order. */
    private final CompletableFuture<String> ended = new CompletableFuture<>();

    public Host(Code code) {
        this.code = code;
    }

    /** Hosts until the stream ends, or a signal asks it to; the process ends with it. */
    public void run(Hello.Builder hello, Beginning beginning) {
        var channel = Sidecar.connect(System.getenv());
        open(Sidecar.authorized(ComponentServiceGrpc.newStub(channel), System.getenv()), hello);
        // SIGTERM and SIGINT run this; the program would end with code 143 if it did not say otherwise.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(leave())));
        welcomed.thenRunAsync(() -> {
            try {
                beginning.run();
            } catch (Exception e) {
                ended.complete(String.valueOf(e.getMessage()));
            }
        }, threads);
        String problem = ended.join();
        if (!problem.isEmpty()) System.err.println("the host ends: " + problem);
        // Past the hook: there is nobody to say goodbye to any more.
        Runtime.getRuntime().halt(problem.isEmpty() ? 0 : 1);
    }

    /** Asks the sidecar for something, and waits. Part of a turn if it carries the turn's token. */
    public Response request(Request.Builder operation) throws InterruptedException {
        var answer = new CompletableFuture<Response>();
        synchronized (this) {
            requests += 1;
            waiting.put(requests, answer);
            send(ComponentFrame.newBuilder().setRequest(operation.setId(requests)));
        }
        Response response;
        try {
            response = answer.get();
        } catch (ExecutionException e) {
            throw new IllegalStateException(e.getCause());
        }
        if (response.hasStatus()) {
            throw new Refusal(Sidecar.Error.of(response.getStatus()));
        }
        return response;
    }

    /** A value as JSON. */
    public static Payload json(Object value) {
        var data = ByteString.copyFromUtf8(JSON.toJson(value));
        return Payload.newBuilder().setData(data).setContentType("application/json").build();
    }

    /** JSON as a value; {@code null} if it is none of that kind. */
    public static <T> T parse(Payload payload, Class<T> kind) {
        try {
            return JSON.fromJson(payload.getData().toStringUtf8(), kind);
        } catch (JsonParseException e) {
            return null;
        }
    }

    /** Opens the stream and says hello. */
    synchronized void open(ComponentServiceGrpc.ComponentServiceStub stub, Hello.Builder hello) {
        toSidecar = stub.connect(this);
        send(ComponentFrame.newBuilder().setHello(
                hello.setProtocolVersion(Sidecar.PROTOCOL_VERSION).setInvocationCredits(TURNS_MAX)));
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
            case WELCOME -> {
                // 64 bits without a sign: Java's `long` would print the upper half as negative numbers.
                System.err.println("hosts on node " + frame.getWelcome().getNode() + ", incarnation "
                        + Long.toUnsignedString(frame.getWelcome().getIncarnation()));
                welcomed.complete(null);
            }
            case INVOCATION -> {
                var turn = new Turn(frame.getInvocation());
                turns.put(turn.invocation.getTurnToken(), turn);
                threads.execute(turn);
            }
            case RESPONSE -> {
                var answer = waiting.remove(frame.getResponse().getId());
                if (answer != null) answer.complete(frame.getResponse());
            }
            case CANCEL_TURN -> {
                // Its code stops, and then its result goes out. A turn that has answered already is not in the table.
                var turn = turns.get(frame.getCancelTurn().getTurnToken());
                if (turn != null) turn.cancel(frame.getCancelTurn().getReason());
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

    // An SDK would connect again here; `kar run --restart` starts the program again.
    @Override
    public void onError(Throwable thrown) {
        ended.complete(Sidecar.Error.of(thrown).toString());
    }

    @Override
    public synchronized void onCompleted() {
        ended.complete(leaving ? "" : "the sidecar closed the stream");
    }

    /** Leaves in order: no new turns come, those that run are finished, everything is handed over, then it closes. */
    private int leave() {
        synchronized (this) {
            leaving = true;
            send(ComponentFrame.newBuilder().setGoodbye(Goodbye.getDefaultInstance()));
        }
        try {
            return ended.get(DRAIN_TIMEOUT_SECONDS, TimeUnit.SECONDS).isEmpty() ? 0 : 1;
        } catch (Exception e) {
            System.err.println("the host ends: not handed over after " + DRAIN_TIMEOUT_SECONDS + " s");
            return 1;
        }
    }

    /** One turn. */
    private final class Turn implements Runnable {
        private final InvocationFrame invocation;
        private Thread thread;
        private boolean cancelled;
        /** Another attempt has taken over: whatever this one comes to counts for nothing. */
        private boolean superseded;

        Turn(InvocationFrame invocation) {
            this.invocation = invocation;
        }

        @Override
        public void run() {
            var outcome = TurnOutcome.newBuilder();
            boolean failed = false;
            try {
                synchronized (this) {
                    thread = Thread.currentThread();
                    if (cancelled) throw new InterruptedException("cancelled before it began");
                }
                outcome.setPayload(code.run(invocation));
            } catch (Throwable e) {
                // Also what is no Exception (a stack overflow, a failed assertion): each turn has a result.
                failed = true;
                // First what cannot fail: to tell more is up to the exception's own code.
                outcome.setError(ApplicationError.newBuilder().setCode(e.getClass().getSimpleName()));
                outcome.setError(failure(e));
            } finally {
                end(outcome, failed);
            }
        }

        private void end(TurnOutcome.Builder outcome, boolean failed) {
            synchronized (this) {
                thread = null;
                // The interruption was meant for this turn, not for the thread's next one.
                Thread.interrupted();
                // What somebody only asked to stop, and which has a result all the same, has that.
                if (superseded || (cancelled && failed)) outcome.setCancelled(Cancelled.getDefaultInstance());
            }
            finish(this, outcome);
        }

        /** Also right before the turn's thread has begun: then the code never runs. */
        synchronized void cancel(CancelReason reason) {
            cancelled = true;
            superseded |= reason != CancelReason.CANCEL_REASON_REQUESTED;
            if (thread != null) thread.interrupt();
        }
    }

    /** An error of the application: it goes back to the caller and is not retried. */
    private static ApplicationError failure(Throwable e) {
        var stack = new StringWriter();
        e.printStackTrace(new PrintWriter(stack));
        return ApplicationError.newBuilder()
                .setCode(e instanceof Failure failure ? failure.code : e.getClass().getSimpleName())
                .setMessage(String.valueOf(e.getMessage()))
                .setDetail(stack.toString())
                .build();
    }
}
