// SPDX-License-Identifier: Apache-2.0
package dev.callsd.conformance;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.JsonFormat;
import dev.callsd.client.CaptionSender;
import dev.callsd.client.CaptionWatch;
import dev.callsd.client.Channels;
import dev.callsd.client.JobWatch;
import dev.callsd.client.Refusal;
import dev.callsd.client.Transfers;
import dev.callsd.v1.Caption;
import dev.callsd.v1.CreateJobRequest;
import dev.callsd.v1.DeleteJobRequest;
import dev.callsd.v1.GetJobRequest;
import dev.callsd.v1.Job;
import dev.callsd.v1.JobFilter;
import dev.callsd.v1.JobServiceGrpc;
import dev.callsd.v1.JobServiceGrpc.JobServiceBlockingStub;
import dev.callsd.v1.ListJobsRequest;
import dev.callsd.v1.ListJobsResponse;
import dev.callsd.v1.StopJobRequest;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

/** Does what it is told on standard input; see clients/conformance/README.md. */
public final class Driver {
  private static final int STEP_BYTES = 3200; // a tenth of a second
  private static final int STEP_SAMPLES = STEP_BYTES / 2;
  private static final long STEP_MILLIS = 100;
  private static final double TIMEOUT_SECONDS = 10;

  private final PrintStream output = new PrintStream(System.out, true, StandardCharsets.UTF_8);
  private final Gson gson = new Gson();
  private final Map<Integer, Stream> streams = new ConcurrentHashMap<>();
  private volatile ManagedChannel channel;

  private record Stream(Context.CancellableContext context, Thread thread) {}

  /** Reads commands to the end of input. */
  public static void main(String[] arguments) throws IOException {
    new Driver().run();
    System.exit(0); // threads that still wait hold nothing that matters
  }

  private void run() throws IOException {
    var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = input.readLine()) != null; ) {
      JsonObject command = JsonParser.parseString(line).getAsJsonObject();
      new Thread(() -> answer(command)).start();
    }
  }

  private void answer(JsonObject command) {
    int id = command.get("id").getAsInt();
    var context = Context.current().withCancellation();
    streams.put(id, new Stream(context, Thread.currentThread()));
    try {
      JsonElement result = context.call(() -> act(command));
      say(command, "result", result);
    } catch (InterruptedException cancelled) {
      say(command, "result", new JsonObject());
    } catch (StatusRuntimeException error) {
      say(command, "error", described(Refusal.of(error)));
    } catch (Exception error) {
      error.printStackTrace();
      JsonObject said = new JsonObject();
      said.addProperty("type", "CallsdError");
      said.addProperty("code", "UNKNOWN");
      said.addProperty("message", error.toString());
      say(command, "error", said);
    } finally {
      streams.remove(id);
    }
  }

  private JsonElement act(JsonObject command) throws Exception {
    String name = text(command, "name");
    switch (text(command, "do")) {
      case "connect":
        if (channel != null) {
          channel.shutdownNow();
        }
        channel =
            Channels.open(
                text(command, "address"), path(command, "tokenFile"), path(command, "caFile"));
        return new JsonObject();
      case "cancel":
        Stream target = streams.get(command.get("target").getAsInt());
        target.context().cancel(null);
        target.thread().interrupt();
        return new JsonObject();
      case "createJob":
        CreateJobRequest.Builder request = CreateJobRequest.newBuilder();
        merge(command, "request", request);
        if (request.getRequestId().isEmpty()) {
          request.setRequestId(UUID.randomUUID().toString());
        }
        return json(jobs(command).createJob(request.build()));
      case "getJob":
        return json(
            jobs(command).getJob(GetJobRequest.newBuilder().setName(name).build()).getJob());
      case "listJobs":
        return listJobs(command);
      case "stopJob":
        return json(
            jobs(command).stopJob(StopJobRequest.newBuilder().setName(name).build()).getJob());
      case "deleteJob":
        return json(jobs(command).deleteJob(DeleteJobRequest.newBuilder().setName(name).build()));
      case "watchJobs":
        JobFilter.Builder filter = JobFilter.newBuilder();
        merge(command, "filter", filter);
        new JobWatch(channel, filter.build(), position(command), new Telling(command)).run();
        return new JsonObject();
      case "upload":
        return object("name", Transfers.upload(channel, path(command, "path")).getName());
      case "fetchArtifact":
        var artifact =
            Transfers.fetch(
                channel, text(command, "job"), text(command, "artifact"), path(command, "path"));
        JsonObject fetched = object("sha256", artifact.getSha256());
        fetched.addProperty("sizeBytes", Files.size(path(command, "path")));
        return fetched;
      case "sendCaptions":
        return sendCaptions(command);
      case "watchCaptions":
        new CaptionWatch(channel, text(command, "job"), 0, caption -> tell(command, caption)).run();
        return new JsonObject();
      case "isServing":
        var answer =
            HealthGrpc.newBlockingStub(channel)
                .withDeadlineAfter((long) TIMEOUT_SECONDS, TimeUnit.SECONDS)
                .check(HealthCheckRequest.getDefaultInstance());
        return object("serving", answer.getStatus() == ServingStatus.SERVING);
      default:
        throw new IllegalArgumentException("unknown command " + command);
    }
  }

  private JsonElement listJobs(JsonObject command) throws InvalidProtocolBufferException {
    ListJobsRequest.Builder request = ListJobsRequest.newBuilder();
    merge(command, "filter", request.getFilterBuilder());
    if (command.has("pageSize")) {
      request.setPageSize(command.get("pageSize").getAsInt());
    }
    JsonArray names = new JsonArray();
    ListJobsResponse page;
    do {
      page = jobs(command).listJobs(request.build());
      page.getJobsList().forEach(job -> names.add(job.getName()));
      request.setPageToken(page.getNextPageToken());
    } while (!page.getNextPageToken().isEmpty());
    return object("names", names);
  }

  private JsonElement sendCaptions(JsonObject command) throws IOException, InterruptedException {
    byte[] sound = Files.readAllBytes(path(command, "path"));
    boolean isRealTime = command.has("realTime") && command.get("realTime").getAsBoolean();
    var sender = new CaptionSender(channel, text(command, "job"), text(command, "speaker"));
    long began = System.currentTimeMillis();
    for (int at = 0, number = 0; at < sound.length; at += STEP_BYTES, number++) {
      long due = began + number * STEP_MILLIS - System.currentTimeMillis();
      if (isRealTime && due > 0) {
        Thread.sleep(due);
      }
      byte[] data = Arrays.copyOfRange(sound, at, Math.min(at + STEP_BYTES, sound.length));
      sender.send(data, (long) number * STEP_SAMPLES);
    }
    sender.finish();
    return new JsonObject();
  }

  private void tell(JsonObject command, Caption caption) {
    JsonObject end = object("sequence", caption.getSequence());
    end.addProperty("speaker", caption.getSpeaker());
    end.addProperty("text", caption.getText());
    say(command, "event", object("final", end));
  }

  /** Tells of a watch's events as lines. */
  private final class Telling implements JobWatch.Listener {
    private final JsonObject command;

    Telling(JsonObject command) {
      this.command = command;
    }

    @Override
    public void changed(Job job) {
      tell("job", json(job));
    }

    @Override
    public void deleted(String name) {
      tell("deleted", name);
    }

    @Override
    public void reached(JobWatch.Position position) {
      tell("bookmark", position);
    }

    @Override
    public void interrupted(Refusal refusal) {
      tell("interrupted", refusal.reason());
    }

    private void tell(String what, Object value) {
      say(command, "event", object(what, value));
      if (command.has("slowSeconds")) {
        try {
          Thread.sleep((long) (1000 * command.get("slowSeconds").getAsDouble()));
        } catch (InterruptedException cancelled) {
          Thread.currentThread().interrupt();
        }
      }
    }
  }

  // From and to JSON

  private JobServiceBlockingStub jobs(JsonObject command) {
    boolean isGiven = command.has("timeoutSeconds");
    double seconds = isGiven ? command.get("timeoutSeconds").getAsDouble() : TIMEOUT_SECONDS;
    return JobServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter((long) (1000 * seconds), TimeUnit.MILLISECONDS);
  }

  private JsonObject described(Refusal refusal) {
    JsonObject said = gson.toJsonTree(refusal).getAsJsonObject(); // without what is null
    said.addProperty("type", type(refusal));
    return said;
  }

  private static String type(Refusal refusal) {
    return switch (refusal.code()) {
      case INVALID_ARGUMENT -> "InvalidRequestError";
      case NOT_FOUND -> "NotFoundError";
      case UNAUTHENTICATED, PERMISSION_DENIED -> "AccessError";
      // Without a reason it comes from gRPC: a message was too large.
      case RESOURCE_EXHAUSTED -> refusal.reason().isEmpty() ? "CallsdError" : "CapacityError";
      case FAILED_PRECONDITION, ABORTED, ALREADY_EXISTS -> "ConflictError";
      case OUT_OF_RANGE -> "OutOfRangeError";
      case UNAVAILABLE -> "UnavailableError";
      case DEADLINE_EXCEEDED -> "DeadlineError";
      case DATA_LOSS -> "IntegrityError";
      default -> "CallsdError";
    };
  }

  private JobWatch.Position position(JsonObject command) {
    return gson.fromJson(command.get("resume"), JobWatch.Position.class);
  }

  private synchronized void say(JsonObject command, String what, JsonElement value) {
    JsonObject line = new JsonObject();
    line.add("id", command.get("id"));
    line.add(what, value);
    output.println(line);
  }

  private JsonObject object(String key, Object value) {
    JsonObject found = new JsonObject();
    found.add(key, gson.toJsonTree(value));
    return found;
  }

  private static JsonElement json(MessageOrBuilder message) {
    try {
      return JsonParser.parseString(JsonFormat.printer().print(message));
    } catch (InvalidProtocolBufferException impossible) {
      throw new AssertionError(impossible); // only a message with an Any of unknown type
    }
  }

  private static void merge(JsonObject command, String key, Message.Builder into)
      throws InvalidProtocolBufferException {
    if (command.has(key)) {
      JsonFormat.parser().merge(command.get(key).toString(), into);
    }
  }

  private static String text(JsonObject command, String key) {
    return command.has(key) ? command.get(key).getAsString() : "";
  }

  private static Path path(JsonObject command, String key) {
    String found = text(command, key);
    return found.isEmpty() ? null : Path.of(found);
  }
}
