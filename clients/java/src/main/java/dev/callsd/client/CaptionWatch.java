// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import dev.callsd.v1.Caption;
import dev.callsd.v1.CaptionServiceGrpc;
import dev.callsd.v1.WatchCaptionsRequest;
import dev.callsd.v1.WatchCaptionsResponse;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;
import java.util.function.Consumer;

/** Follows a call's final captions over any number of connections: each once, in order. */
public final class CaptionWatch {
  private final Channel channel;
  private final String job;
  private final Consumer<Caption> listener;
  private long last;

  /**
   * Prepares a watch.
   *
   * @param after number of the last caption that is known already; 0 for all of them
   */
  public CaptionWatch(Channel channel, String job, long after, Consumer<Caption> listener) {
    this.channel = channel;
    this.job = job;
    this.last = after;
    this.listener = listener;
  }

  /** Watches until the call is over or the current {@link Context} is cancelled. */
  public void run() throws InterruptedException {
    Resume resume = new Resume();
    while (true) {
      try {
        Iterator<WatchCaptionsResponse> messages =
            CaptionServiceGrpc.newBlockingStub(channel)
                .watchCaptions(
                    WatchCaptionsRequest.newBuilder()
                        .setJob(job)
                        .setResumeSequence(last)
                        .setFinalsOnly(true)
                        .build());
        while (messages.hasNext()) {
          resume.answered();
          Caption caption = messages.next().getCaption();
          if (caption.getIsFinal() && caption.getSequence() > last) {
            last = caption.getSequence();
            listener.accept(caption);
          }
        }
        return;
      } catch (StatusRuntimeException error) {
        if (Context.current().isCancelled()) {
          return;
        }
        Thread.sleep(resume.failed(error));
      }
    }
  }
}
