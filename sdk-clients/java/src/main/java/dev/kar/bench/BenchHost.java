package dev.kar.bench;

import dev.kar.v1.ComponentFrame;
import dev.kar.v1.Goodbye;
import dev.kar.v1.TurnOutcome;

/** What {@code cargo xtask bench --languages} calls: the service {@code bench}, which returns what it is given. */
public final class BenchHost {
    private static Frames frames;

    private BenchHost() {}

    public static void main(String[] args) throws InterruptedException {
        frames = new Frames(frame -> {
            switch (frame.getFrameCase()) {
                case INVOCATION -> {
                    var invocation = frame.getInvocation();
                    frames.send(ComponentFrame.newBuilder().setTurnResult(TurnOutcome.newBuilder()
                            .setTurnToken(invocation.getTurnToken())
                            .setPayload(invocation.getPayload())));
                }
                case DRAINED -> frames.close();
                default -> { }
            }
        });
        frames.open("bench");
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            frames.send(ComponentFrame.newBuilder().setGoodbye(Goodbye.getDefaultInstance()));
            frames.flush();
            try {
                frames.await();
            } catch (InterruptedException e) {
                Runtime.getRuntime().halt(1);
            }
            Runtime.getRuntime().halt(0);
        }));
        frames.await();
    }
}
