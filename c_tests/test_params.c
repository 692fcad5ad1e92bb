/* SPDX-License-Identifier: GPL-2.0-or-later
 * The module's parameters: which names and types it takes, and what it says about those it does not. */
#include "host.h"

#include <sys/wait.h>
#include <unistd.h>

#define STR(n, v) {n, true, (char *)(v), 0}
#define INT(n, v) {n, false, NULL, v}
/* A number outside its range, which the error names. */
#define OUTSIDE(n, v, range) {n " " #v, {INT(n, v)}, false, "parameter " n ": " #v " is outside " range ": use a number in that range, or remove the line for the default"}
struct param {
	const char *name;
	bool string;
	char *text;
	long number;
};
static const struct {
	const char *what;
	struct param param[3];
	bool starts;
	const char *says;
} tests[] = {
	{"nothing set", {{0}}, true, ""},
	{"early_media", {INT("early_media", 1)}, true, ""},
	{"report_cancels", {INT("report_cancels", 1)}, true, ""},
	{"detect_direction", {INT("detect_direction", 1)}, true, ""},
	{"log_level", {INT("log_level", 1)}, true, ""},
	{"log_facility", {STR("log_facility", "LOG_LOCAL3")}, true, ""},
	{"an unknown facility", {STR("log_facility", "LOG_NOWHERE")}, false, "log_facility"},
	{"service_type", {INT("service_type", 15)}, true, ""},
	{"column names", {STR("acc_method_column", "meth"), STR("acc_time_column", "t"), STR("acc_callid_column", "cid")}, true, ""},
	{"more column names", {STR("acc_from_tag_column", "ft"), STR("acc_to_tag_column", "tt"), STR("acc_sip_code_column", "c")}, true, ""},
	{"table names", {STR("db_table_acc", "a1"), STR("db_table_missed_calls", "m1"), STR("acc_sip_reason_column", "r")}, true, ""},
	{"db_table_avp", {STR("db_table_avp", "x")}, true, "$avp(name)"},
	{"a flag by number and by name", {INT("log_flag", 1), STR("db_flag", "ACC"), STR("evi_flag", "7")}, true, ""},
	{"extras", {STR("log_extra", "a=$fu; b=$hdr(Server)/reply")}, true, ""},
	{"extras with a trailing semicolon", {STR("log_extra", "a=$fu;")}, false, "log_extra"},
	{"extras of no variable", {STR("log_extra", "a=$nothing_like_it")}, false, "$nothing_like_it"},
	{"extras of the BYE that are of a reply", {STR("log_extra_bye", "a=$fu/reply")}, false, "log_extra_bye"},
	{"legs of no AVP", {STR("multi_leg_info", "a=$fu")}, false, "multi_leg_info"},
	{"a filter of no failures", {STR("failed_filter", "200")}, false, "failed_filter"},
	OUTSIDE("log_flag", 32, "-1 to 31"),
	{"extra_fields", {STR("extra_fields", "log: a->b; c")}, true, ""},
	{"extra_fields with a trailing semicolon", {STR("extra_fields", "log: a->b; c ; ")}, true, ""},
	{"extra_fields over lines", {STR("extra_fields", "log: a->b;\n\t c -> d")}, true, ""},
	{"extra_fields twice", {STR("extra_fields", "log: a->b"), STR("extra_fields", "evi: a->c")}, true, ""},
	{"a tag twice", {STR("extra_fields", "log: a->b; a->c")}, true, "a"},
	{"leg_fields", {STR("leg_fields", "log: a->b; c")}, true, ""},
	{"extra_fields of no backend", {STR("extra_fields", "nowhere: a->b")}, false, "nowhere"},
	{"extra_fields without a backend", {STR("extra_fields", "a->b")}, false, "extra_fields"},
	{"leg_fields of no backend", {STR("leg_fields", "xx: a")}, false, "xx"},
	{"db fields without a db_url", {STR("extra_fields", "db: a->b")}, false, "db_url"},
	{"aaa_url", {STR("aaa_url", "radius:/nonexistent/radius.conf")}, false, "aaa"},
	{"aaa fields without an aaa_url", {STR("extra_fields", "aaa: a->b")}, false, "aaa"},
	{"a column that is no name", {STR("db_url", "sqlite:///tmp/x.db"), STR("acc_method_column", "a b; drop")}, false, "acc_method_column"},
	{"a table that is no name", {STR("db_url", "sqlite:///tmp/x.db"), STR("db_table_acc", "a'b")}, false, "db_table_acc"},
	{"a db_url of no kind", {STR("db_url", "nonsense")}, false, "db_url"},
	{"a number where a string belongs", {INT("extra_fields", 3)}, false, "extra_fields"},
	{"a string where a number belongs", {STR("early_media", "1")}, false, "early_media"},
	OUTSIDE("early_media", 2, "0 to 1"),
	OUTSIDE("early_media", -1, "0 to 1"),
	OUTSIDE("report_cancels", 2, "0 to 1"),
	OUTSIDE("detect_direction", 2, "0 to 1"),
	OUTSIDE("log_level", 5, "-3 to 4"),
	OUTSIDE("log_level", -4, "-3 to 4"),
	OUTSIDE("service_type", -2, "-1 to 2147483647"),
	OUTSIDE("journal_max_size", -1, "0 to 1048576"),
	OUTSIDE("journal_max_size", 1048577, "0 to 1048576"),
	OUTSIDE("journal_keep", -1, "0 to 8784"),
	OUTSIDE("journal_min_free", -1, "0 to 1048576"),
	OUTSIDE("journal_min_free", 1048577, "0 to 1048576"),
	OUTSIDE("backlog_threshold", -1, "0 to 2147483647"),
	OUTSIDE("delivery_batch", 0, "1 to 5000"),
	OUTSIDE("delivery_batch", 5001, "1 to 5000"),
	OUTSIDE("delivery_retry_max", 0, "1 to 3600"),
	OUTSIDE("delivery_retry_max", 3601, "1 to 3600"),
	OUTSIDE("orphan_timeout", 0, "1 to 86400"),
	OUTSIDE("orphan_timeout", 86401, "1 to 86400"),
	OUTSIDE("arena_size", 15, "16 to 65536"),
	OUTSIDE("arena_size", 65537, "16 to 65536"),
	OUTSIDE("context_max", 15, "16 to 16384"),
	OUTSIDE("context_max", 16385, "16 to 16384"),
	{"an unknown parameter", {INT("no_such_parameter", 1)}, false, "parameter <no_such_parameter> not found"},
};

int main(int argc, char **argv)
{
	int bad = 0, n = (int)(sizeof tests / sizeof *tests);
	const char *module = argc > 1 ? argv[1] : getenv("MODULE");

	if (!module) {
		fprintf(stderr, "usage: test_params MODULE\n");
		return 2;
	}
	shm_map();
	version_set("3.6.8");
	scenario.file = "test_params";
	for (int i = 0; i < n; i++) {
		int fd[2], status;
		char log[65536];
		size_t len = 0;
		ssize_t got;
		bool ok;

		if (pipe(fd) < 0)
			return 2;
		shm_reset();
		if (fork() == 0) {
			dup2(fd[1], 2);
			dup2(fd[1], 1);
			close(fd[0]);
			close(fd[1]);
			settings = (struct settings){.workers = 2, .log_level = OS_L_INFO, .to_stderr = true, .dialog = true, .dialog_first = true,
			                             .rr = true, .append_fromtag = true, .tm = true};
			snprintf(settings.module, sizeof settings.module, "%s", module);
			for (int k = 0; k < 3 && tests[i].param[k].name; k++) {
				snprintf(settings.param[k].name, sizeof settings.param[k].name, "%s", tests[i].param[k].name);
				settings.param[k].string = tests[i].param[k].string;
				settings.param[k].text = tests[i].param[k].text;
				settings.param[k].number = tests[i].param[k].number;
				settings.params++;
			}
			_exit(core_load() < 0 || core_init() < 0 ? 255 : 0);
		}
		close(fd[1]);
		while (len < sizeof log - 1 && (got = read(fd[0], log + len, sizeof log - 1 - len)) > 0)
			len += (size_t)got;
		log[len] = 0;
		close(fd[0]);
		wait(&status);
		ok = WIFEXITED(status) && (WEXITSTATUS(status) == 0) == tests[i].starts && strstr(log, tests[i].says);
		printf("%sok %d - %s: %s\n", ok ? "" : "not ", i + 1, tests[i].what, tests[i].starts ? "starts" : "refuses and says why");
		if (!ok) {
			bad++;
			printf("# status %d, log:\n", status);
			for (char *l = strtok(log, "\n"); l; l = strtok(NULL, "\n"))
				printf("#   %s\n", l);
		}
		fflush(stdout);
	}
	printf("1..%d\n", n);
	return bad != 0;
}
