package dev.kar.hello;

import dev.kar.v1.Hello;
import dev.kar.v1.HostedMethod;
import dev.kar.v1.HostedService;
import dev.kar.v1.InvocationFrame;
import dev.kar.v1.Payload;
import java.util.Map;

/**
 * Hosts the service {@code greeter}, without an SDK: what an SDK has to do is in {@link Host}.
 *
 * <pre>
 * kar run --app hello --service greeter -- sdk-clients/java/start hello-server
 * kar call --app hello greeter hello '{"name":"Alan"}'
 * </pre>
 */
public final class HelloServer {
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

    private HelloServer() {}

    public static void main(String[] args) {
        var service = HostedService.newBuilder().setName("greeter");
        METHODS.keySet().forEach(name -> service.addMethods(HostedMethod.newBuilder().setName(name)));
        var hello = Hello.newBuilder().setSdk("hello-java/0.1.0").addServices(service);
        new Host(HelloServer::run).run(hello, () -> { });
    }

    private static Payload run(InvocationFrame invocation) throws Exception {
        Method method = METHODS.get(invocation.getMethod());
        if (method == null) {
            String known = String.join(", ", METHODS.keySet());
            throw new Host.Failure(
                    "kar.UNKNOWN_METHOD", "greeter has no method '" + invocation.getMethod() + "'; it has: " + known);
        }
        Argument argument = Host.parse(invocation.getPayload(), Argument.class);
        if (argument == null || argument.name() == null) {
            throw new IllegalArgumentException("the argument must be like {\"name\":\"Alan\"}");
        }
        return Host.json(method.run(argument));
    }
}
