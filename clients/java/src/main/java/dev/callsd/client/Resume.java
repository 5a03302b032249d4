// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Decides after each failure of a stream whether to come back, and when.
 *
 * <p>A stream that never worked fails at once: its address is probably wrong. One that did work is
 * taken up again until the server has not answered for {@link #PATIENCE_SECONDS}. From where, each
 * stream knows itself.
 */
public final class Resume {
  static final double FIRST_DELAY_SECONDS = 0.1;
  static final double MAX_DELAY_SECONDS = 5.0;
  static final double PATIENCE_SECONDS = 300.0;

  private static final Set<String> PASSING =
      Set.of("SLOW_CONSUMER", "STREAMS_EXHAUSTED", "UPLOAD_BUSY");

  private int failures;
  private long lastAnswer;
  private boolean hasWorked;

  /** Takes note that the server has answered. */
  public void answered() {
    failures = 0;
    hasWorked = true;
    lastAnswer = System.nanoTime();
  }

  /**
   * Milliseconds to wait before the next try.
   *
   * @throws StatusRuntimeException the error itself, when another try is of no use
   */
  public long failed(StatusRuntimeException error) {
    return (long) (1000 * delaySeconds(error));
  }

  private double delaySeconds(StatusRuntimeException error) {
    Refusal refusal = Refusal.of(error);
    boolean isGivenUp = Context.current().isCancelled();
    if (isGivenUp || !isPassing(refusal) || !hasWorked || silentSeconds() > PATIENCE_SECONDS) {
      throw error;
    }
    failures++;
    double limit = Math.min(FIRST_DELAY_SECONDS * Math.pow(2, failures - 1), MAX_DELAY_SECONDS);
    // Half fixed, half random: clients cut off together do not come back together.
    double delay = limit * (0.5 + ThreadLocalRandom.current().nextDouble() / 2);
    return refusal.retryAfterSeconds() == null
        ? delay
        : Math.max(delay, refusal.retryAfterSeconds());
  }

  private static boolean isPassing(Refusal refusal) {
    // A server that is killed cancels its streams, and gRPC may put a status of its own, INTERNAL,
    // in the place of the server's when a stream ends while something is written.
    return switch (refusal.code()) {
      case UNAVAILABLE -> true;
      case CANCELLED, INTERNAL -> refusal.reason().isEmpty();
      default ->
          PASSING.contains(refusal.reason())
              // After a restart a captions job is not open for audio at once.
              || (refusal.reason().equals("JOB_STATE_CONFLICT")
                  && refusal.retryAfterSeconds() != null)
              // The server has stored more of an upload since it was asked how much.
              || refusal.metadata().containsKey("received_bytes");
    };
  }

  private double silentSeconds() {
    return (System.nanoTime() - lastAnswer) / 1e9;
  }

  /** What to throw when the server ends a stream that has no end. */
  static StatusRuntimeException endedEarly() {
    return Status.UNAVAILABLE.withDescription("the server ended the stream").asRuntimeException();
  }
}
