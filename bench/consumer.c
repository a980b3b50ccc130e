/* The limit: librabbitmq, one message at a time, acknowledged by hand. consumer PORT QUEUE COUNTERS SLOT */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void must(int fine, const char *what) {
  if (fine) return;
  fprintf(stderr, "consumer: %s failed\n", what);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 5) return puts(amqp_version()) < 0;
  struct stat about;
  int file = open(argv[3], O_RDWR);
  must(file >= 0 && fstat(file, &about) == 0, "open");
  volatile uint64_t *words = mmap(0, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  must(words != MAP_FAILED, "mmap");
  words += 8 * atoi(argv[4]);
  words[1] = getpid();

  amqp_connection_state_t connection = amqp_new_connection();
  must(!amqp_socket_open(amqp_tcp_socket_new(connection), "127.0.0.1", atoi(argv[1])), "connect");
  amqp_rpc_reply_t reply = amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  must(reply.reply_type == AMQP_RESPONSE_NORMAL, "login");
  amqp_channel_open(connection, 1);
  amqp_basic_qos(connection, 1, 0, 1, 0);
  amqp_basic_consume(connection, 1, amqp_cstring_bytes(argv[2]), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  must(amqp_get_rpc_reply(connection).reply_type == AMQP_RESPONSE_NORMAL, "consume");
  for (;;) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(connection);
    reply = amqp_consume_message(connection, &envelope, NULL, 0);
    must(reply.reply_type == AMQP_RESPONSE_NORMAL, "receive");
    (*words)++;
    must(!amqp_basic_ack(connection, 1, envelope.delivery_tag, 0), "ack");
    amqp_destroy_envelope(&envelope);
  }
}
