// SPDX-License-Identifier: Apache-2.0
package dev.callsd.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.Map;

/**
 * What a request was refused with: the status and its details, unpacked.
 *
 * @param code gRPC's status code
 * @param reason name from {@code callsd.v1.ErrorReason} without its prefix; empty when the error
 *     comes from gRPC itself, not from callsd
 * @param message what happened and what to do, for a person
 * @param metadata the facts in the message, for a program
 * @param retryAfterSeconds when it makes sense to try again; null if the server did not say
 * @param fields paths of all invalid fields of the request
 */
public record Refusal(
    Status.Code code,
    String reason,
    String message,
    Map<String, String> metadata,
    Double retryAfterSeconds,
    List<String> fields) {

  /** Unpacks what a stub has thrown. */
  public static Refusal of(StatusRuntimeException error) {
    String reason = "";
    Map<String, String> metadata = Map.of();
    Double retryAfterSeconds = null;
    List<String> fields = List.of();
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    List<Any> details = status == null ? List.of() : status.getDetailsList();
    try {
      for (Any detail : details) {
        if (detail.is(ErrorInfo.class)) {
          ErrorInfo info = detail.unpack(ErrorInfo.class);
          if (info.getDomain().equals("callsd")) {
            reason = info.getReason();
            metadata = info.getMetadataMap();
          }
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfterSeconds = delay.getSeconds() + delay.getNanos() / 1e9;
        } else if (detail.is(BadRequest.class)) {
          fields =
              detail.unpack(BadRequest.class).getFieldViolationsList().stream()
                  .map(BadRequest.FieldViolation::getField)
                  .toList();
        }
      }
    } catch (InvalidProtocolBufferException broken) {
      // Details that are no messages are not callsd's: the code says enough.
    }
    Status.Code code = error.getStatus().getCode();
    String message = error.getStatus().getDescription();
    return new Refusal(
        code, reason, message == null ? code.name() : message, metadata, retryAfterSeconds, fields);
  }
}
