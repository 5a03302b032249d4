// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * One request that sends a stream, for code that waits for an answer or for room to send.
 *
 * <p>Whoever uses it holds {@code lock}, and waits on it: it is notified of every change.
 */
final class Sending<Q, A> implements ClientResponseObserver<Q, A> {
  private final Object lock;
  private final Queue<A> answers = new ArrayDeque<>();
  private ClientCallStreamObserver<Q> requests;
  private StatusRuntimeException error;
  private boolean isOver;

  Sending(Object lock) {
    this.lock = lock;
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<Q> requests) {
    this.requests = requests;
    requests.setOnReadyHandler(() -> change(() -> {}));
  }

  @Override
  public void onNext(A answer) {
    change(() -> answers.add(answer));
  }

  @Override
  public void onError(Throwable problem) {
    change(
        () -> {
          error =
              Status.fromThrowable(problem)
                  .asRuntimeException(Status.trailersFromThrowable(problem));
          isOver = true;
        });
  }

  @Override
  public void onCompleted() {
    change(() -> isOver = true);
  }

  private void change(Runnable what) {
    synchronized (lock) {
      what.run();
      lock.notifyAll();
    }
  }

  /**
   * The next answer, or null if there is none yet.
   *
   * @throws StatusRuntimeException what the request has ended with
   */
  A poll() {
    if (answers.isEmpty() && error != null) {
      throw error;
    }
    return answers.poll();
  }

  /** Whether the server has ended the request. */
  boolean isOver() {
    return isOver;
  }

  /** Whether there is room to send. */
  boolean isReady() {
    return !isOver && requests.isReady();
  }

  void send(Q request) {
    if (!isOver) {
      requests.onNext(request);
    }
  }

  /** Says that nothing more comes. */
  void finish() {
    if (!isOver) {
      requests.onCompleted();
    }
  }
}
