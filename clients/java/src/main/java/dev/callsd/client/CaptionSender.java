// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import dev.callsd.v1.AudioAck;
import dev.callsd.v1.AudioChunk;
import dev.callsd.v1.AudioEncoding;
import dev.callsd.v1.CaptionServiceGrpc;
import dev.callsd.v1.CaptionsConfig;
import dev.callsd.v1.SpeakerEvent;
import dev.callsd.v1.SpeakerEventType;
import dev.callsd.v1.StreamCaptionsRequest;
import dev.callsd.v1.StreamCaptionsResponse;
import io.grpc.Channel;
import io.grpc.StatusRuntimeException;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Sends the sound of one speaker of a call: none is lost and none comes twice, over any number of
 * connections.
 *
 * <p>Each chunk has a number and is kept until the server has worked it off. The first answer on
 * each connection tells which number the server has received last: what is kept behind it is sent
 * again.
 */
public final class CaptionSender {
  private static final long NANOS_PER_SAMPLE = 62_500; // 16 kHz
  private static final int KEPT_CHUNKS = 600;

  private final Channel channel;
  private final CaptionsConfig config;
  private final String speaker;
  private final Thread thread = new Thread(this::run, "captions");

  // Guarded by this object.
  private final Deque<AudioChunk> kept = new ArrayDeque<>();
  private long numbered;
  private long sent;
  private boolean isOpen;
  private boolean isFinished;
  private boolean hasSaidEnd;
  private RuntimeException failure;

  /** Begins to send; {@code job} is the name of a captions job. */
  public CaptionSender(Channel channel, String job, String speaker) {
    this.channel = channel;
    this.speaker = speaker;
    this.config =
        CaptionsConfig.newBuilder()
            .setJob(job)
            .setEncoding(AudioEncoding.AUDIO_ENCODING_S16LE_16KHZ)
            .build();
    thread.setDaemon(true);
    thread.start();
  }

  /**
   * Sends some sound, s16le at 16 kHz in one channel; blocks while {@link #KEPT_CHUNKS} chunks
   * wait to be worked off.
   *
   * @param startSample when it was made, from the start of the call
   */
  public synchronized void send(byte[] data, long startSample) throws InterruptedException {
    while (kept.size() >= KEPT_CHUNKS && failure == null) {
      wait();
    }
    check();
    kept.add(
        AudioChunk.newBuilder()
            .setSpeaker(speaker)
            .setSequence(++numbered)
            .setStartOffset(offset(startSample))
            .setData(ByteString.copyFrom(data))
            .build());
    notifyAll();
  }

  /** Says that nothing more comes, and waits until everything is worked off. */
  public synchronized void finish() throws InterruptedException {
    isFinished = true;
    notifyAll();
    while (!isWorkedOff() && failure == null) {
      wait();
    }
    check();
  }

  private void check() {
    if (failure != null) {
      throw failure;
    }
  }

  private void run() {
    Resume resume = new Resume();
    while (true) {
      try {
        converse(resume);
        return;
      } catch (StatusRuntimeException error) {
        try {
          Thread.sleep(resume.failed(error));
        } catch (StatusRuntimeException | InterruptedException last) {
          fail(error);
          return;
        }
      } catch (InterruptedException stopped) {
        return;
      }
    }
  }

  /** One connection, to its end; returns when that is the end of all. */
  private synchronized void converse(Resume resume) throws InterruptedException {
    var call = new Sending<StreamCaptionsRequest, StreamCaptionsResponse>(this);
    CaptionServiceGrpc.newStub(channel).streamCaptions(call);
    call.send(StreamCaptionsRequest.newBuilder().setConfig(config).build());
    isOpen = hasSaidEnd = false;
    while (true) {
      StreamCaptionsResponse answer = call.poll();
      if (answer != null) {
        resume.answered();
        learn(answer);
        continue;
      }
      if (isWorkedOff()) {
        call.finish();
        return;
      }
      if (call.isOver()) {
        throw Resume.endedEarly();
      }
      StreamCaptionsRequest next = call.isReady() ? next() : null;
      if (next == null) {
        wait(); // for sound, an answer, room, or the end: each of them notifies
      } else {
        call.send(next);
      }
    }
  }

  private boolean isWorkedOff() {
    return isFinished && isOpen && kept.isEmpty();
  }

  private void learn(StreamCaptionsResponse answer) {
    long received = 0;
    for (AudioAck ack : answer.getAcksList()) {
      if (ack.getSpeaker().equals(speaker)) {
        received = ack.getReceivedSequence();
        long processed = nanos(ack.getProcessedOffset());
        while (!kept.isEmpty() && end(kept.peek()) <= processed) {
          kept.remove();
        }
      }
    }
    if (!isOpen) {
      isOpen = true;
      sent = received;
    }
    notifyAll();
  }

  /** What to send now; null when there is nothing. */
  private StreamCaptionsRequest next() {
    if (!isOpen) {
      return null;
    }
    for (AudioChunk chunk : kept) {
      if (chunk.getSequence() > sent) {
        sent = chunk.getSequence();
        return StreamCaptionsRequest.newBuilder().setAudio(chunk).build();
      }
    }
    if (!isFinished || hasSaidEnd || kept.isEmpty()) {
      return null;
    }
    hasSaidEnd = true;
    long end = end(kept.peekLast());
    return StreamCaptionsRequest.newBuilder()
        .setEvent(
            SpeakerEvent.newBuilder()
                .setSpeaker(speaker)
                .setType(SpeakerEventType.SPEAKER_EVENT_TYPE_MUTED)
                .setOffset(offset(end / NANOS_PER_SAMPLE)))
        .build();
  }

  private synchronized void fail(RuntimeException error) {
    failure = error;
    notifyAll();
  }

  private static long end(AudioChunk chunk) {
    return nanos(chunk.getStartOffset()) + chunk.getData().size() / 2 * NANOS_PER_SAMPLE;
  }

  private static long nanos(Duration duration) {
    return duration.getSeconds() * 1_000_000_000 + duration.getNanos();
  }

  private static Duration offset(long sample) {
    long nanos = sample * NANOS_PER_SAMPLE;
    return Duration.newBuilder()
        .setSeconds(nanos / 1_000_000_000)
        .setNanos((int) (nanos % 1_000_000_000))
        .build();
  }
}
