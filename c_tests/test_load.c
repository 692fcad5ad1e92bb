/* SPDX-License-Identifier: GPL-2.0-or-later
 * Which servers the module loads into: a table of versions, each in a process of its own. MODULE = path of the module. */
#include "host.h"

#include <sys/wait.h>
#include <unistd.h>

static const struct {
	const char *version;
	bool loads, tm, rr, dialog;
	const char *says; /* in the log */
	const char *odd;
} tests[] = {
	{"3.4.7", true, true, true, true, "", ""},
	{"3.4.18", true, true, true, true, "", ""},
	{"3.5.3", true, true, true, true, "", ""},
	{"3.6.0", true, true, true, true, "", ""},
	{"3.6.6", true, true, true, true, "", ""},
	{"3.6.7", true, true, true, true, "", ""},
	{"3.6.8", true, true, true, true, "", ""},
	{"4.0.1", true, true, true, true, "", ""},
	{"3.6.9", true, true, true, true, "3.6.9 (x86_64/linux)\", which is not among the tested versions", ""},
	{"4.1.0-dev", true, true, true, true, "which is not among the tested versions", ""},
	{"5.0.0", true, true, true, true, "which is not among the tested versions", ""},
	{"3.6.9", true, true, true, true, "which is not among the tested versions", "tm_table"},
	{"3.6.8", true, true, true, true, "", "tm_table"},
	{"3.6.9", false, true, true, true, "the module tm of this server does not offer t_ctx_put_ptr", "tm_names"},
	{"3.6.8", false, true, true, true, "the module tm of this server does not offer t_ctx_put_ptr", "tm_names"},
	{"3.6.9", false, true, true, true, "the module dialog of this server does not offer create_dlg", "dialog_table"},
	{"3.6.9", false, true, true, true, "names and indices of variables in this server", "variables"},
	{"3.6.9", false, true, true, true, "values of variables in this server", "values"},
	{"3.6.9", true, true, true, true, "management commands of this server", "commands"},
	{"3.6.9", false, true, true, true, "parameters of events in this server", "event_params"},
	{"3.6.8", true, true, true, false, "", ""},
	{"3.6.8", true, true, false, true, "", ""},
	{"3.6.8", false, false, true, false, "tm", ""},
	{"3.4.6", false, true, true, true, "3.4.6", ""},
	{"3.3.9", false, true, true, true, "3.3.9", ""},
};

int main(int argc, char **argv)
{
	int bad = 0, n = (int)(sizeof tests / sizeof *tests);
	const char *module = argc > 1 ? argv[1] : getenv("MODULE");

	if (!module) {
		fprintf(stderr, "usage: test_load MODULE\n");
		return 2;
	}
	shm_map();
	scenario.file = "test_load";
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
			version_set(tests[i].version);
			settings = (struct settings){.workers = 2, .log_level = OS_L_INFO, .to_stderr = true, .dialog = tests[i].dialog,
			                             .dialog_first = true, .rr = tests[i].rr, .append_fromtag = true, .tm = tests[i].tm};
			snprintf(settings.module, sizeof settings.module, "%s", module);
			snprintf(settings.subscribed, sizeof settings.subscribed, "all");
			snprintf(settings.odd, sizeof settings.odd, "%s", tests[i].odd);
			_exit(core_load() < 0 || core_init() < 0 ? 255 : 0);
		}
		close(fd[1]);
		while (len < sizeof log - 1 && (got = read(fd[0], log + len, sizeof log - 1 - len)) > 0)
			len += (size_t)got;
		log[len] = 0;
		close(fd[0]);
		wait(&status);
		ok = WIFEXITED(status) && (WEXITSTATUS(status) == 0) == tests[i].loads && strstr(log, tests[i].says);
		printf("%sok %d - %s %s%s%s%s: %s\n", ok ? "" : "not ", i + 1, tests[i].version, tests[i].odd, tests[i].tm ? "" : " without tm",
		       tests[i].rr ? "" : " without rr", tests[i].dialog ? "" : " without dialog",
		       tests[i].loads ? "loads" : "refuses and says why");
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
