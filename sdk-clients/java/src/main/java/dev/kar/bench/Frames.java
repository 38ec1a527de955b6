package dev.kar.bench;

import dev.kar.hello.Sidecar;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentServiceGrpc;
import dev.kar.v1.ConnectRequest;
import dev.kar.v1.ConnectResponse;
import dev.kar.v1.Hello;
import dev.kar.v1.HostedService;
import dev.kar.v1.SidecarFrame;
import io.grpc.ManagedChannel;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.CountDownLatch;
import java.util.function.Consumer;

/** A stream on which whatever is ready goes in one message: what the frames of one message cause. */
final class Frames implements StreamObserver<ConnectResponse> {
    /** Frames in one message: enough to share its cost, few enough that the other side can begin early. */
    private static final int FRAMES_PER_MESSAGE_MAX = 16;

    private final CountDownLatch ended = new CountDownLatch(1);
    private final ManagedChannel channel = Sidecar.connect(System.getenv());
    private final Consumer<SidecarFrame> take;
    private StreamObserver<ConnectRequest> toSidecar;
    private ConnectRequest.Builder ready = ConnectRequest.newBuilder();

    Frames(Consumer<SidecarFrame> take) {
        this.take = take;
    }

    synchronized void open(String... services) {
        toSidecar = Sidecar.authorized(ComponentServiceGrpc.newStub(channel), System.getenv()).connect(this);
        var hello = Hello.newBuilder().setProtocolVersion(Sidecar.PROTOCOL_VERSION).setSdk("bench-java");
        for (String name : services) hello.addServices(HostedService.newBuilder().setName(name));
        send(ComponentFrame.newBuilder().setHello(hello));
        flush();
    }

    /** Adds a frame to those that go when the present message has been taken. */
    synchronized void send(ComponentFrame.Builder frame) {
        ready.addFrames(frame);
        if (ready.getFramesCount() >= FRAMES_PER_MESSAGE_MAX) flush();
    }

    synchronized void flush() {
        if (ready.getFramesCount() == 0) return;
        toSidecar.onNext(ready.build());
        ready = ConnectRequest.newBuilder();
    }

    synchronized void close() {
        flush();
        toSidecar.onCompleted();
    }

    void await() throws InterruptedException {
        ended.await();
    }

    @Override
    public synchronized void onNext(ConnectResponse message) {
        message.getFramesList().forEach(take);
        flush();
    }

    @Override
    public void onError(Throwable thrown) {
        System.err.println(Sidecar.Error.of(thrown));
        Runtime.getRuntime().halt(1);
    }

    @Override
    public void onCompleted() {
        ended.countDown();
    }
}
