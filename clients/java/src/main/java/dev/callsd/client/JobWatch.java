// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import dev.callsd.v1.Job;
import dev.callsd.v1.JobEvent;
import dev.callsd.v1.JobFilter;
import dev.callsd.v1.JobServiceGrpc;
import dev.callsd.v1.WatchJobsRequest;
import dev.callsd.v1.WatchJobsResponse;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.StatusRuntimeException;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Map;
import java.util.Set;

/** Follows jobs over any number of connections: in order, each change once, none left out. */
public final class JobWatch {
  /** A point in a database's history, from which a later watch can go on. */
  public record Position(String databaseId, long revision) {}

  /** Is told what happens, from the thread that runs the watch. */
  public interface Listener {
    /** A job is new, or is not what it was. */
    void changed(Job job);

    /** A job is no longer there. */
    void deleted(String name);

    /** All changes up to here have been told; the first time ends the initial state. */
    void reached(Position position);

    /** The connection broke; the watch goes on by itself. */
    void interrupted(Refusal refusal);
  }

  private final Channel channel;
  private final JobFilter filter;
  private final Listener listener;
  private final boolean knowsAll;
  private final Map<String, Long> seen = new HashMap<>();
  private Position position;
  private String databaseId = "";
  private Set<String> snapshot;

  /**
   * Prepares a watch.
   *
   * @param resume where an earlier watch was; null to begin with all jobs as they are
   */
  public JobWatch(Channel channel, JobFilter filter, Position resume, Listener listener) {
    this.channel = channel;
    this.filter = filter;
    this.listener = listener;
    this.position = resume;
    this.knowsAll = resume == null;
    if (resume != null) {
      databaseId = resume.databaseId();
    }
  }

  /** Watches until the current {@link Context} is cancelled, or until it cannot go on. */
  public void run() throws InterruptedException {
    Resume resume = new Resume();
    while (true) {
      try {
        Iterator<WatchJobsResponse> messages =
            JobServiceGrpc.newBlockingStub(channel).watchJobs(request());
        while (messages.hasNext()) {
          resume.answered();
          receive(messages.next());
        }
        throw Resume.endedEarly();
      } catch (StatusRuntimeException error) {
        if (Context.current().isCancelled()) {
          return;
        }
        Refusal refusal = Refusal.of(error);
        if (refusal.reason().startsWith("REVISION_") && knowsAll && position != null) {
          position = null; // the history does not reach back so far: take a new snapshot
          continue;
        }
        long delay = resume.failed(error);
        listener.interrupted(refusal);
        Thread.sleep(delay);
      }
    }
  }

  private WatchJobsRequest request() {
    WatchJobsRequest.Builder request = WatchJobsRequest.newBuilder().setFilter(filter);
    snapshot = position == null ? new HashSet<>() : null;
    if (position != null) {
      request.setResumeRevision(position.revision()).setDatabaseId(position.databaseId());
    }
    return request.build();
  }

  private void receive(WatchJobsResponse message) {
    if (!message.getDatabaseId().equals(databaseId)) {
      // Revisions of another database say nothing about what was told from this one.
      seen.replaceAll((name, revision) -> -1L);
      databaseId = message.getDatabaseId();
    }
    for (JobEvent event : message.getEventsList()) {
      switch (event.getEventCase()) {
        case JOB_CHANGED -> changed(event.getJobChanged());
        case JOB_DELETED -> deleted(event.getJobDeleted());
        default -> {} // an event of a kind newer than this client
      }
    }
    if (snapshot != null && message.getInitialStateSent()) {
      Set<String> gone = new HashSet<>(seen.keySet());
      gone.removeAll(snapshot);
      gone.forEach(this::deleted);
      snapshot = null;
    }
    if (snapshot == null) { // half a snapshot is not a point to go on from
      position = new Position(message.getDatabaseId(), message.getRevision());
      listener.reached(position);
    }
  }

  private void changed(Job job) {
    if (snapshot != null) {
      snapshot.add(job.getName());
    }
    if (seen.getOrDefault(job.getName(), -1L) < job.getRevision()) {
      seen.put(job.getName(), job.getRevision());
      listener.changed(job);
    }
  }

  private void deleted(String name) {
    boolean wasSeen = seen.remove(name) != null;
    if (snapshot != null) {
      snapshot.remove(name);
    }
    // The server cannot tell whether a job that is gone matched the filter; we can.
    if (wasSeen || !knowsAll) {
      listener.deleted(name);
    }
  }
}
