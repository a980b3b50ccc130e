/* Publishes COUNT persistent, mandatory messages of SIZE bytes, of which at most WINDOW are not confirmed yet.
 * publisher PORT QUEUE COUNT SIZE WINDOW [dressed] */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int fine, const char *what) {
  if (fine) return;
  fprintf(stderr, "publisher: %s failed\n", what);
  exit(1);
}

int main(int argc, char **argv) {
  must(argc == 6 || argc == 7, "reading the arguments");
  uint64_t count = atoll(argv[3]), window = atoll(argv[5]);
  amqp_bytes_t body = amqp_bytes_malloc(atoll(argv[4]));
  memset(body.bytes, 'x', body.len);
  amqp_connection_state_t connection = amqp_new_connection();
  must(!amqp_socket_open(amqp_tcp_socket_new(connection), "127.0.0.1", atoi(argv[1])), "connect");
  amqp_rpc_reply_t reply = amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  must(reply.reply_type == AMQP_RESPONSE_NORMAL, "login");
  amqp_channel_open(connection, 1);
  amqp_confirm_select(connection, 1);
  must(amqp_get_rpc_reply(connection).reply_type == AMQP_RESPONSE_NORMAL, "confirm.select");

  amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
  amqp_table_entry_t enqueued = {.key = amqp_cstring_bytes("x-wq-enqueued-at"),
                                 .value = {.kind = AMQP_FIELD_KIND_I64, .value.i64 = 1700000000000}};
  if (argc == 7) { /* as wq-send writes them */
    properties._flags |= AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_HEADERS_FLAG;
    properties.message_id = amqp_cstring_bytes("0190163d-8694-739b-aea5-966c26f8ad91");
    properties.timestamp = 1700000000;
    properties.headers = (amqp_table_t){.num_entries = 1, .entries = &enqueued};
  }
  /* done: all up to this tag are confirmed; early: those above that are; seen: which. */
  uint64_t sent = 0, done = 0, early = 0;
  char *seen = calloc(count + 2, 1);
  while (done < count) {
    for (; sent < count && sent - done - early < window; sent++)
      must(!amqp_basic_publish(connection, 1, amqp_empty_bytes, amqp_cstring_bytes(argv[2]), 1, 0, &properties, body),
           "publish");
    amqp_frame_t frame;
    must(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK, "receive");
    must(frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "confirm");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    if (ack->multiple)
      for (; done < ack->delivery_tag; early -= seen[done]) done++;
    else if (ack->delivery_tag > done)
      seen[ack->delivery_tag] = 1, early++;
    for (; seen[done + 1]; early--) done++;
    amqp_maybe_release_buffers(connection);
  }
  return 0;
}
