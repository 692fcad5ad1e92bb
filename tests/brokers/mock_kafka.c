/* A cluster of one broker, of librdkafka, with a topic of four partitions. Prints where it tells clients to go, and the port
 * where it listens; an argument is the port of somebody in front of it, to whom clients go. For each line of numbers on
 * standard input, Produce requests to come fail with these codes, 0 being none; for each it says "ok". */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PRODUCE = 0, PARTITIONS = 4 };

static int told_port, real_port;

/* librdkafka asks for the port that it has got, and tells it to clients. */
int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	int result = (int)syscall(SYS_getsockname, fd, address, length);
	if (!result && in->sin_family == AF_INET && !real_port) {
		real_port = ntohs(in->sin_port);
		if (told_port)
			in->sin_port = htons((uint16_t)told_port);
	}
	return result;
}

int main(int argc, char **argv)
{
	told_port = argc > 1 ? atoi(argv[1]) : 0;
	char why[512], line[4096];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
	if (!rk) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(rk, 1);
	if (!cluster || rd_kafka_mock_topic_create(cluster, "acc", PARTITIONS, 1))
		return 1;
	printf("%s %d\n", rd_kafka_mock_cluster_bootstraps(cluster), real_port);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
			int code = 0;
			sscanf(word, "%d", &code);
			rd_kafka_mock_push_request_errors(cluster, PRODUCE, 1, (rd_kafka_resp_err_t)code);
		}
		puts("ok");
		fflush(stdout);
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(rk);
	return 0;
}
