// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** How connections to a daemon are set up: keepalive, flow control, retries, tokens, TLS. */
public final class Channels {
  // What a stream may hold unread: with more, neither end notices a slow reader.
  private static final int WINDOW_BYTES = 64 << 10;
  private static final int MAX_RECEIVE_BYTES = 16 << 20;

  // Only what may safely happen twice: reads, and CreateJob by its request id.
  private static final Map<String, ?> RETRIES =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  List.of(
                      Map.of("service", "callsd.v1.JobService", "method", "CreateJob"),
                      Map.of("service", "callsd.v1.JobService", "method", "GetJob"),
                      Map.of("service", "callsd.v1.JobService", "method", "ListJobs"),
                      Map.of("service", "callsd.v1.MediaService", "method", "GetUpload")),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 4.0,
                      "initialBackoff", "0.1s",
                      "maxBackoff", "2s",
                      "backoffMultiplier", 2.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE")))));

  private Channels() {}

  /**
   * Opens a channel.
   *
   * @param address {@code unix:/path}, {@code tcp:HOST:PORT} (this machine only) or {@code
   *     tls:HOST:PORT}
   * @param tokenFile file with the bearer token, read for each request; null for none
   * @param caFile certificates to trust for TLS; null for the system's
   */
  public static ManagedChannel open(String address, Path tokenFile, Path caFile)
      throws IOException {
    int colon = address.indexOf(':');
    String scheme = address.substring(0, colon);
    String rest = address.substring(colon + 1);
    String target = scheme.equals("unix") ? "unix://" + rest : rest;
    var builder = (NettyChannelBuilder) Grpc.newChannelBuilder(target, credentials(scheme, caFile));
    if (tokenFile != null) {
      builder.intercept(new Token(tokenFile));
    }
    return builder
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .flowControlWindow(WINDOW_BYTES)
        .maxInboundMessageSize(MAX_RECEIVE_BYTES)
        .defaultServiceConfig(RETRIES)
        .enableRetry()
        .build();
  }

  private static ChannelCredentials credentials(String scheme, Path caFile) throws IOException {
    if (!scheme.equals("tls")) {
      return InsecureChannelCredentials.create();
    }
    if (caFile == null) {
      return TlsChannelCredentials.create();
    }
    return TlsChannelCredentials.newBuilder().trustManager(caFile.toFile()).build();
  }

  /** Sends the token with each request; read each time, as tokens are renewed while clients run. */
  private record Token(Path file) implements ClientInterceptor {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    @Override
    public <Q, A> ClientCall<Q, A> interceptCall(
        MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
      return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
        @Override
        public void start(Listener<A> listener, Metadata headers) {
          try {
            headers.put(AUTHORIZATION, "Bearer " + Files.readString(file).strip());
          } catch (IOException problem) {
            throw new UncheckedIOException("token file " + file, problem);
          }
          super.start(listener, headers);
        }
      };
    }
  }
}
