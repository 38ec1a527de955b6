package dev.kar.hello;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import dev.kar.v1.ComponentFrame;
import dev.kar.v1.ComponentFrame.FrameCase;
import dev.kar.v1.Credit;
import dev.kar.v1.SidecarFrame;
import dev.kar.v1.Welcome;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** What the generated code must be like for programs to rely on it, and the hand-written code that several share. */
final class StubsTest {
    private static final com.google.rpc.Status REFUSED = com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.RESOURCE_EXHAUSTED.value())
            .setMessage("send less")
            .addDetails(Any.newBuilder().setTypeUrl("type.googleapis.com/google.rpc.Help"))
            .addDetails(Any.pack(ErrorInfo.newBuilder()
                    .setReason("LIMIT_REACHED").setDomain("kar").putMetadata("limit", "depth_max").build()))
            .build();

    private static final Sidecar.Error LIMIT =
            new Sidecar.Error(8, "LIMIT_REACHED", "send less", Map.of("limit", "depth_max"));

    @Test
    void unsigned64BitNumbersAreExact() throws IOException {
        var welcome = Welcome.parseFrom(Welcome.newBuilder().setIncarnation(-1).build().toByteArray());
        assertEquals("18446744073709551615", Long.toUnsignedString(welcome.getIncarnation()));
    }

    @Test
    void aFrameOfALaterVersionIsOneWithoutAKind() throws IOException {
        byte[] later = {(byte) 0x9a, 0x06, 0x00};
        assertEquals(SidecarFrame.FrameCase.FRAME_NOT_SET, SidecarFrame.parseFrom(later).getFrameCase());
    }

    @Test
    void aOneofIsOneValueWithItsCase() throws IOException {
        var frame = ComponentFrame.newBuilder().setCredit(Credit.newBuilder().setCount(3)).build();
        var read = ComponentFrame.parseFrom(frame.toByteArray());
        assertEquals(FrameCase.CREDIT, read.getFrameCase());
        assertEquals(3, read.getCredit().getCount());
    }

    @Test
    void anErrorOnTheStreamIsReadWithItsReason() {
        assertEquals(LIMIT, Sidecar.Error.of(REFUSED));
        assertEquals("LIMIT_REACHED · send less · limit=depth_max", LIMIT.toString());
    }

    @Test
    void anErrorOfAUnaryCallIsReadWithTheSameReason() {
        assertEquals(LIMIT, Sidecar.Error.of(StatusProto.toStatusRuntimeException(REFUSED)));
    }

    @Test
    void anErrorThatIsNotKarsHasNoReasonButItsCause() {
        var broken = Status.UNAVAILABLE.withDescription("io exception").withCause(new IOException("refused"));
        var error = Sidecar.Error.of(broken.asRuntimeException());
        assertEquals(new Sidecar.Error(14, "", "io exception: refused", Map.of()), error);
    }

    @Test
    void theEnvironmentNamesTheSidecar() {
        var socket = Sidecar.connect(Map.of("KAR_SOCKET", "/x/kar.sock", "KAR_GRPC_PORT", "9"));
        assertEquals("localhost", socket.authority());
        socket.shutdownNow();
        var port = Sidecar.connect(Map.of("KAR_SOCKET", "", "KAR_GRPC_PORT", "9"));
        assertEquals("127.0.0.1:9", port.authority());
        port.shutdownNow();
        var nowhere = assertThrows(IllegalStateException.class, () -> Sidecar.connect(Map.of()));
        assertTrue(nowhere.getMessage().contains("kar run"));
    }
}
