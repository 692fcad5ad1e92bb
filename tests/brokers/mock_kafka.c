/* A cluster of one broker, of librdkafka, with a topic of four partitions. Prints where it listens. For each line of
 * numbers on standard input, Produce requests to come fail with these codes, 0 being none; for each it says "ok". */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <string.h>

enum { PRODUCE = 0, PARTITIONS = 4 };

int main(void)
{
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
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
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
