// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import com.google.protobuf.ByteString;
import dev.callsd.v1.Artifact;
import dev.callsd.v1.FetchArtifactRequest;
import dev.callsd.v1.FetchArtifactResponse;
import dev.callsd.v1.GetUploadRequest;
import dev.callsd.v1.JobServiceGrpc;
import dev.callsd.v1.MediaServiceGrpc;
import dev.callsd.v1.Upload;
import dev.callsd.v1.UploadChunk;
import dev.callsd.v1.UploadMediaRequest;
import dev.callsd.v1.UploadMediaResponse;
import dev.callsd.v1.UploadStart;
import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** Files on their way: bytes go on where a broken connection stopped them. */
public final class Transfers {
  private static final int CHUNK_BYTES = 256 << 10;
  private static final long TIMEOUT_SECONDS = 10;

  private Transfers() {}

  /** Sends a file; the result's name is what a track's {@code upload} takes. */
  public static Upload upload(Channel channel, Path path)
      throws IOException, InterruptedException {
    String id = UUID.randomUUID().toString();
    MessageDigest digest = sha256();
    long size = 0;
    byte[] buffer = new byte[CHUNK_BYTES];
    try (var file = Files.newInputStream(path)) {
      for (int count; (count = file.read(buffer)) > 0; size += count) {
        digest.update(buffer, 0, count);
      }
    }
    UploadStart start =
        UploadStart.newBuilder()
            .setUploadId(id)
            .setSizeBytes(size)
            .setSha256(HexFormat.of().formatHex(digest.digest()))
            .build();
    Resume resume = new Resume();
    while (true) {
      try {
        Upload known = known(channel, "uploads/" + id);
        resume.answered();
        return known.getComplete() ? known : send(channel, start, path, known.getReceivedBytes());
      } catch (StatusRuntimeException error) {
        Thread.sleep(resume.failed(error));
      }
    }
  }

  /** What the server has of an upload. */
  private static Upload known(Channel channel, String name) {
    try {
      return MediaServiceGrpc.newBlockingStub(channel)
          .withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS)
          .getUpload(GetUploadRequest.newBuilder().setName(name).build())
          .getUpload();
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() == Status.Code.NOT_FOUND) {
        return Upload.getDefaultInstance();
      }
      throw error;
    }
  }

  private static Upload send(Channel channel, UploadStart start, Path path, long offset)
      throws IOException, InterruptedException {
    Object lock = new Object();
    try (var file = Files.newInputStream(path)) {
      synchronized (lock) {
        var call = new Sending<UploadMediaRequest, UploadMediaResponse>(lock);
        MediaServiceGrpc.newStub(channel).uploadMedia(call);
        call.send(UploadMediaRequest.newBuilder().setStart(start).build());
        file.skipNBytes(offset);
        boolean isSent = false;
        while (true) {
          UploadMediaResponse answer = call.poll();
          if (answer != null) {
            return answer.getUpload();
          }
          if (call.isOver()) {
            throw Resume.endedEarly();
          }
          if (isSent || !call.isReady()) {
            lock.wait();
            continue;
          }
          byte[] data = file.readNBytes(CHUNK_BYTES);
          if (data.length == 0) {
            call.finish();
            isSent = true;
          } else {
            var chunk =
                UploadChunk.newBuilder().setOffset(offset).setData(ByteString.copyFrom(data));
            call.send(UploadMediaRequest.newBuilder().setChunk(chunk).build());
            offset += data.length;
          }
        }
      }
    }
  }

  /** Stores one artifact of a job: whole and with the announced hash, or not at all. */
  public static Artifact fetch(Channel channel, String job, String file, Path destination)
      throws IOException, InterruptedException {
    Path part = destination.resolveSibling("." + destination.getFileName() + ".part");
    try (OutputStream output = Files.newOutputStream(part)) {
      Artifact artifact = fetch(channel, job + "/artifacts/" + file, output);
      output.close();
      Files.move(part, destination, StandardCopyOption.REPLACE_EXISTING);
      return artifact;
    } finally {
      Files.deleteIfExists(part);
    }
  }

  private static Artifact fetch(Channel channel, String name, OutputStream output)
      throws IOException, InterruptedException {
    MessageDigest digest = sha256();
    Artifact artifact = Artifact.getDefaultInstance();
    long offset = 0;
    Resume resume = new Resume();
    while (true) {
      try {
        Iterator<FetchArtifactResponse> pieces =
            JobServiceGrpc.newBlockingStub(channel)
                .fetchArtifact(
                    FetchArtifactRequest.newBuilder().setName(name).setOffset(offset).build());
        while (pieces.hasNext()) {
          FetchArtifactResponse piece = pieces.next();
          resume.answered();
          artifact = piece.hasArtifact() ? piece.getArtifact() : artifact;
          if (piece.getOffset() != offset) {
            throw damaged(name + ": byte " + piece.getOffset() + " came where another was due");
          }
          byte[] data = piece.getData().toByteArray();
          output.write(data);
          digest.update(data);
          offset += data.length;
        }
        if (offset < artifact.getSizeBytes()) {
          throw Resume.endedEarly();
        }
      } catch (StatusRuntimeException error) {
        Thread.sleep(resume.failed(error));
        continue;
      }
      if (!HexFormat.of().formatHex(digest.digest()).equals(artifact.getSha256())) {
        throw damaged(name + ": what came does not have the announced hash");
      }
      return artifact;
    }
  }

  private static StatusRuntimeException damaged(String message) {
    return Status.DATA_LOSS.withDescription(message).asRuntimeException();
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError(impossible); // every Java has it
    }
  }
}
