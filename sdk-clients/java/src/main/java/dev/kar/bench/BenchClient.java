package dev.kar.bench;

import com.google.protobuf.ByteString;
import dev.kar.hello.Sidecar;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.DeliveryMode;
import dev.kar.v1.InvokeRequest;
import dev.kar.v1.Payload;
import dev.kar.v1.Request;
import dev.kar.v1.Response;
import dev.kar.v1.SidecarFrame;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;

/**
 * The load client of {@code cargo xtask bench --languages}: so many clients, each of which makes the next call when it
 * has the answer to the last one. Prints {@code begin} after the warm-up, and then what it found.
 */
public final class BenchClient {
    private static final int PAYLOAD_BYTES = 1024;

    /** Longer than elsewhere: the JVM compiles what is hot only after a while. */
    private static final long WARM_UP_MS = 2_500;

    private static final int CALLS_MAX = 20_000_000;

    private final InvokeRequest request;
    private final int clients;
    private final Frames frames = new Frames(this::take);
    /** When each client's call was made, ns. Guarded by the frames, as all that follows. */
    private final long[] made;
    private long[] taken = new long[1 << 16];
    private int count;
    private boolean measuring;
    private boolean over;
    private int underWay;

    private BenchClient(Map<String, String> options) {
        clients = Integer.parseInt(options.get("clients"));
        underWay = clients;
        made = new long[clients];
        var payload = Payload.newBuilder()
                .setData(ByteString.copyFrom(new byte[PAYLOAD_BYTES])).setContentType("application/octet-stream");
        boolean direct = options.get("target").equals("direct");
        request = InvokeRequest.newBuilder()
                .setService("bench").setMethod("echo").setPayload(payload)
                .setDeliveryMode(direct ? DeliveryMode.DELIVERY_MODE_DIRECT : DeliveryMode.DELIVERY_MODE_DURABLE)
                .build();
    }

    public static void main(String[] args) throws InterruptedException {
        var options = new HashMap<String, String>();
        for (int at = 0; at + 1 < args.length; at += 2) options.put(args[at].substring(2), args[at + 1]);
        var client = new BenchClient(options);
        client.frames.open();
        Thread.sleep(WARM_UP_MS);
        client.measure(Double.parseDouble(options.get("seconds")));
        client.frames.await();
    }

    private void measure(double seconds) throws InterruptedException {
        long start = System.nanoTime();
        synchronized (frames) {
            measuring = true;
        }
        System.out.println("begin");
        Thread.sleep((long) (seconds * 1_000));
        synchronized (frames) {
            measuring = false;
            over = true;
            Arrays.sort(taken, 0, count);
            System.out.println(String.format(Locale.ROOT,
                    "{\"calls\":%d,\"seconds\":%.6f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f}",
                    count, (System.nanoTime() - start) / 1e9, at(0.5), at(0.99), at(0.999), at(1)));
        }
    }

    private double at(double quantile) {
        return count == 0 ? 0 : taken[Math.min((int) (quantile * count), count - 1)] / 1_000.0;
    }

    private void take(SidecarFrame frame) {
        switch (frame.getFrameCase()) {
            case WELCOME -> {
                for (int id = 0; id < clients; id++) call(id);
            }
            case RESPONSE -> answered(frame.getResponse());
            default -> { }
        }
    }

    private void answered(Response response) {
        if (response.hasStatus()) throw new IllegalStateException(Sidecar.Error.of(response.getStatus()).toString());
        if (!response.getInvoke().hasPayload()) throw new IllegalStateException("no result");
        int id = (int) response.getId();
        if (measuring && count < CALLS_MAX) {
            if (count == taken.length) taken = Arrays.copyOf(taken, 2 * count);
            taken[count++] = System.nanoTime() - made[id];
        }
        if (!over) call(id);
        else if (--underWay == 0) frames.close();
    }

    private void call(int id) {
        made[id] = System.nanoTime();
        frames.send(ComponentFrame.newBuilder().setRequest(Request.newBuilder().setId(id).setInvoke(request)));
    }
}
