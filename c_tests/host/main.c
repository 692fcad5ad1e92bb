/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "host.h"

#include <ftw.h>
#include <unistd.h>

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

int main(int argc, char **argv)
{
	const char *file = NULL;
	bool keep = false;
	int rc;

	version_set("3.6.8");
	settings = (struct settings){.workers = 2, .log_level = OS_L_INFO, .to_stderr = true, .dialog = true, .dialog_first = true, .rr = true,
	                             .append_fromtag = true, .tm = true, .subscribed = "all", .persist = true};
	if (getenv("HOST_VERSION"))
		version_set(getenv("HOST_VERSION"));
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--module") && i + 1 < argc)
			snprintf(settings.module, sizeof settings.module, "%s", argv[++i]);
		else if (!strcmp(argv[i], "--version") && i + 1 < argc)
			setenv("HOST_VERSION", argv[++i], 1), version_set(argv[i]);
		else if (!strcmp(argv[i], "--keep"))
			keep = true;
		else
			file = argv[i];
	}
	if (!file || !settings.module[0]) {
		fprintf(stderr, "usage: acc_host --module acc.so [--version X.Y.Z] [--keep] SCENARIO\n");
		return 2;
	}
	snprintf(workdir, sizeof workdir, "%s/acc_host.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(workdir)) {
		perror("mkdtemp");
		return 2;
	}
	shm_map();
	scenario_parse(file);
	rc = scenario_run();
	if (keep || rc)
		printf("# kept: %s\n", workdir);
	else
		nftw(workdir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return rc;
}
