/* SPDX-License-Identifier: GPL-2.0-or-later
 * Scenario files: reading them, driving the server through them, comparing what comes out. See ../README.md. */
#include "host.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

struct scenario scenario;
char workdir[256];
static struct settings parsing; /* as the lines so far say */

/* ---- reading ---- */
static FILE *in;
static const char *reading; /* its name */
static int line_no;

static _Noreturn void wrong(const char *what, const char *text)
{
	fprintf(stderr, "%s:%d: %s: %s\n", reading, line_no, what, text);
	exit(2);
}

static char *replace(char *text, const char *what, const char *with)
{
	char *at;

	while ((at = strstr(text, what))) {
		char *n = malloc(strlen(text) + strlen(with) + 1);
		sprintf(n, "%.*s%s%s", (int)(at - text), text, with, at + strlen(what));
		free(text);
		text = n;
	}
	return text;
}

static struct let {
	char name[64], *text;
	struct let *next;
} *lets;

/* {x*500} is 500 times x, {dir} the directory of this run, {$name} what `let name = text` says */
static char *expand(char *text)
{
	char *p = text;

	text = replace(strdup(text), "{dir}", workdir);
	while ((p = strstr(text, "{$"))) {
		char key[70];
		struct let *l;

		for (l = lets; l; l = l->next) {
			snprintf(key, sizeof key, "{$%s}", l->name);
			if (!strncmp(p, key, strlen(key)))
				break;
		}
		if (!l)
			break;
		text = replace(text, key, l->text);
	}
	for (p = text; (p = strchr(p, '{')); p++) {
		char c, end;
		int n, used = 0;

		if (sscanf(p, "{%c*%d%c%n", &c, &n, &end, &used) == 3 && end == '}' && used) {
			size_t before = (size_t)(p - text), after = strlen(p + used);
			char *o = malloc(before + (size_t)n + after + 1);

			memcpy(o, text, before);
			memset(o + before, c, (size_t)n);
			memcpy(o + before + n, p + used, after + 1);
			free(text);
			text = o;
			p = text + before + n - 1;
			if (!p[1])
				break;
		}
	}
	return text;
}

static char *next_line(void)
{
	static char *line;
	static size_t room;
	ssize_t n = getline(&line, &room, in);

	if (n < 0)
		return NULL;
	line_no++;
	while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
		line[--n] = 0;
	return expand(line);
}

static char *skip(char *p)
{
	while (isspace((unsigned char)*p))
		p++;
	return p;
}

static bool word(char **p, char *out, size_t room)
{
	size_t n = 0;

	*p = skip(*p);
	while (**p && !isspace((unsigned char)**p)) {
		if (n + 1 < room)
			out[n++] = **p;
		(*p)++;
	}
	out[n] = 0;
	*p = skip(*p);
	return n > 0;
}

static char *string_of(char **p, int *len)
{
	char *out, *o;

	*p = skip(*p);
	if (**p != '"')
		wrong("a string expected", *p);
	o = out = malloc(strlen(*p) + 1);
	for ((*p)++; **p && **p != '"'; (*p)++) {
		if (**p == '\\') {
			(*p)++;
			if (**p == 'x' && isxdigit((unsigned char)(*p)[1]) && isxdigit((unsigned char)(*p)[2])) {
				char hex[3] = {(*p)[1], (*p)[2], 0};
				*o++ = (char)strtol(hex, NULL, 16);
				*p += 2;
				continue;
			}
			*o++ = **p == 'n' ? '\n' : **p == 'r' ? '\r' : **p == 't' ? '\t' : **p;
			continue;
		}
		*o++ = **p;
	}
	if (**p != '"')
		wrong("no closing quote", out);
	*o = 0;
	*len = (int)(o - out);
	*p = skip(*p + 1);
	return out;
}

static char *string(char **p)
{
	int len;

	return string_of(p, &len);
}

static int route_kind(const char *name)
{
	static const struct { const char *name; int kind; } kinds[] = {
		{"request", OS_REQUEST_ROUTE}, {"failure", OS_FAILURE_ROUTE}, {"onreply", OS_ONREPLY_ROUTE}, {"branch", OS_BRANCH_ROUTE},
		{"error", OS_ERROR_ROUTE}, {"local", OS_LOCAL_ROUTE}, {"startup", OS_STARTUP_ROUTE}, {"timer", OS_TIMER_ROUTE},
		{"event", OS_EVENT_ROUTE}};

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (!strcmp(kinds[i].name, name))
			return kinds[i].kind;
	wrong("no kind of route", name);
}

static struct route *read_block(int kind, const char *name)
{
	struct route *r = calloc(1, sizeof *r);
	struct stmt **last = &r->first;
	char *l;

	r->kind = kind;
	r->line = line_no;
	r->generation = parsing.generation;
	snprintf(r->name, sizeof r->name, "%s", name);
	while ((l = next_line())) {
		char *p = skip(l);

		if (*p == '}') {
			r->next = scenario.routes;
			scenario.routes = r;
			return r;
		}
		if (*p && *p != '#') {
			*last = stmt_parse(p, line_no);
			last = &(*last)->next;
		}
		free(l);
	}
	wrong("no end of the block", name);
}

/* \xNN in place; returns the length */
static size_t unescape(char *text)
{
	char *o = text;

	for (char *p = text; *p; p++) {
		if (p[0] == '\\' && p[1] == 'x' && isxdigit((unsigned char)p[2]) && isxdigit((unsigned char)p[3])) {
			char hex[3] = {p[2], p[3], 0};
			*o++ = (char)strtol(hex, NULL, 16);
			p += 3;
		} else {
			*o++ = *p;
		}
	}
	*o = 0;
	return (size_t)(o - text);
}

static void read_message(const char *name, const char *mark, bool bytes)
{
	struct message *m = calloc(1, sizeof *m);
	char *l, *text = malloc(1);
	size_t n = 0;
	bool body = false, length = false;
	size_t head = 0;

	while ((l = next_line()) && strcmp(l, mark)) {
		if (!body && !*l) {
			body = true;
			head = n;
			free(l);
			continue;
		}
		if (!body && !strncasecmp(l, "Content-Length:", 15))
			length = true;
		size_t len = bytes ? unescape(l) : strlen(l);
		text = realloc(text, n + len + 3);
		memcpy(text + n, l, len);
		memcpy(text + n + len, "\r\n", 3);
		n += len + 2;
		free(l);
	}
	if (!l)
		wrong("no end of the message", name);
	if (!body)
		head = n;
	m->text = malloc(n + 64);
	memcpy(m->text, text, head);
	m->len = (int)head;
	if (!length)
		m->len += sprintf(m->text + m->len, "Content-Length: %zu\r\n", n - head);
	m->len += sprintf(m->text + m->len, "\r\n");
	memcpy(m->text + m->len, text + head, n - head);
	m->len += (int)(n - head);
	m->text[m->len] = 0;
	free(text);
	snprintf(m->name, sizeof m->name, "%s", name);
	m->next = scenario.messages;
	scenario.messages = m;
}

struct message *scenario_message(const char *name)
{
	for (struct message *m = scenario.messages; m; m = m->next)
		if (!strcmp(m->name, name))
			return m;
	return NULL;
}

static struct step *add(enum step_kind kind)
{
	static int room;
	struct step *s;

	if (scenario.steps == room) {
		room = room ? room * 2 : 64;
		scenario.step = realloc(scenario.step, (size_t)room * sizeof *s);
	}
	s = &scenario.step[scenario.steps++];
	memset(s, 0, sizeof *s);
	s->kind = kind;
	s->line = line_no;
	s->worker = 1;
	s->generation = parsing.generation;
	return s;
}

static void set_host(char *p)
{
	char key[64], v[256];

	word(&p, key, sizeof key);
	if (!strcmp(key, "env")) {
		snprintf(parsing.env, sizeof parsing.env, "%s", strcmp(p, "none") ? p : "");
		return;
	}
	if (!strcmp(key, "subscribe") || !strcmp(key, "default_url")) {
		snprintf(key[0] == 's' ? parsing.subscribed : parsing.db_default_url, 512, "%s", *p == '"' ? string(&p) : p);
		return;
	}
	word(&p, v, sizeof v);
	bool on = !strcmp(v, "on") || !strcmp(v, "1");
	if (!strcmp(key, "version")) {
		if (!getenv("HOST_VERSION") && version_set(v) < 0)
			wrong("no version", v);
	} else if (!strcmp(key, "workers")) parsing.workers = atoi(v);
	else if (!strcmp(key, "loglevel")) parsing.log_level = atoi(v);
	else if (!strcmp(key, "stderr")) parsing.to_stderr = on;
	else if (!strcmp(key, "syslog")) parsing.to_syslog = on;
	else if (!strcmp(key, "tm")) parsing.tm = on;
	else if (!strcmp(key, "rr")) parsing.rr = on || !strcmp(v, "nofromtag"), parsing.append_fromtag = on;
	else if (!strcmp(key, "dialog")) parsing.dialog = strcmp(v, "off"), parsing.dialog_first = strcmp(v, "after"), parsing.dialog_full = !strcmp(v, "full");
	else if (!strcmp(key, "persist")) parsing.persist = on;
	else if (!strcmp(key, "alone")) parsing.foreign = on;
	else if (!strcmp(key, "odd")) snprintf(parsing.odd, sizeof parsing.odd, "%.31s", v);
	else wrong("no such setting of the host", key);
	if (parsing.workers < 1 || parsing.workers > MAX_WORKERS)
		wrong("bad number of workers", v);
}

static void set_param(char *p)
{
	char name[64];
	int i;

	word(&p, name, sizeof name);
	i = parsing.params;
	if (!strcmp(p, "unset")) {
		for (i = 0; i < parsing.params;) {
			if (strcmp(parsing.param[i].name, name)) {
				i++;
				continue;
			}
			memmove(&parsing.param[i], &parsing.param[i + 1], (size_t)(--parsing.params - i) * sizeof parsing.param[0]);
		}
		return;
	}
	if (i == MAX_PARAMS)
		wrong("too many parameters", name);
	snprintf(parsing.param[i].name, sizeof parsing.param[i].name, "%s", name);
	parsing.param[i].string = *p == '"';
	if (*p == '"')
		parsing.param[i].text = string(&p);
	else
		parsing.param[i].number = strtol(p, &p, 0);
	parsing.params++;
}

static void split_branch(struct step *s)
{
	char *dot = strrchr(s->name, '.');

	if (dot && isdigit((unsigned char)dot[1]) && !dot[1 + strspn(dot + 1, "0123456789")]) {
		s->branch = atoi(dot + 1);
		*dot = 0;
	}
}

static void keep_settings(struct step *s)
{
	s->set = malloc(sizeof parsing);
	*s->set = parsing;
}

static void parse_line(char *p)
{
	char key[64], w[64];
	struct step *s;

	word(&p, key, sizeof key);
	if (!strcmp(key, "title")) {
		snprintf(scenario.title, sizeof scenario.title, "%s", p);
	} else if (!strcmp(key, "needs")) { /* speed: durations are part of what is tested */
		if (!strcmp(p, "speed") && getenv("HOST_SLOW") && atof(getenv("HOST_SLOW")) > 1) {
			printf("1..0 # SKIP %s needs speed\n", scenario.file);
			exit(0);
		}
	} else if (!strcmp(key, "let")) {
		struct let *l = calloc(1, sizeof *l);
		word(&p, l->name, sizeof l->name);
		if (*p != '=')
			wrong("let NAME = TEXT", p);
		l->text = strdup(skip(p + 1));
		l->next = lets;
		lets = l;
	} else if (!strcmp(key, "host")) {
		set_host(p);
	} else if (!strcmp(key, "modparam")) {
		set_param(p);
	} else if (!strcmp(key, "fields")) { /* the usual extra and leg fields of a backend */
		while (word(&p, w, sizeof w)) {
			char text[256];
			bool legs = w[strlen(w) - 1] == '+';

			if (legs)
				w[strlen(w) - 1] = 0;
			snprintf(text, sizeof text, "extra_fields \"%s: caller->x_caller; callee; num->x_num; note->x_note; unset->x_unset\"", w);
			set_param(text);
			if (legs) {
				snprintf(text, sizeof text, "leg_fields \"%s: leg_src->x_leg_src; leg_dst\"", w);
				set_param(text);
			}
		}
	} else if (!strcmp(key, "route")) {
		char name[64] = "";
		word(&p, w, sizeof w);
		word(&p, name, sizeof name);
		if (!strcmp(name, "{"))
			snprintf(name, sizeof name, "%s", w);
		read_block(route_kind(w), name);
	} else if (!strcmp(key, "msg")) {
		char name[64];
		word(&p, name, sizeof name);
		bool bytes = !strncmp(p, "bytes ", 6);
		if (bytes)
			p = skip(p + 6);
		if (strncmp(p, "<<", 2))
			wrong("<<END expected", p);
		word(&p, w, sizeof w);
		read_message(name, w + 2, bytes);
	} else if (!strcmp(key, "start") || !strcmp(key, "restart") || !strcmp(key, "kill9")) {
		word(&p, w, sizeof w);
		s = add(key[0] == 'r' ? SP_RESTART : key[0] == 'k' ? SP_KILL9 : strcmp(w, "fails") ? SP_START : SP_START_FAILS);
		parsing.generation++;
		keep_settings(s);
		s->code = -1;
		if (s->kind == SP_START_FAILS && word(&p, w, sizeof w))
			s->code = atoi(w);
	} else if (!strcmp(key, "stop")) {
		add(SP_STOP);
	} else if (!strcmp(key, "recv")) {
		s = add(SP_RECV);
		word(&p, w, sizeof w);
		s->worker = atoi(w);
		word(&p, s->msg, sizeof s->msg);
		if (!scenario_message(s->msg))
			wrong("no message", s->msg);
		snprintf(s->name, sizeof s->name, "%s", s->msg);
		snprintf(s->text, sizeof s->text, "main");
		while (word(&p, w, sizeof w)) {
			if (!strcmp(w, "dies")) {
				s->negative = true;
			} else if (!strcmp(w, "as")) {
				word(&p, s->name, sizeof s->name);
			} else if (!strcmp(w, "{")) {
				int at = scenario.steps - 1;
				struct route *r = read_block(OS_REQUEST_ROUTE, "");
				scenario.step[at].route = r;
				return;
			} else {
				snprintf(s->text, sizeof s->text, "%s", w);
			}
		}
	} else if (!strcmp(key, "reply")) {
		s = add(SP_REPLY);
		word(&p, w, sizeof w);
		s->worker = atoi(w);
		word(&p, s->name, sizeof s->name);
		split_branch(s);
		word(&p, w, sizeof w);
		s->code = atoi(w);
		if (s->code < 100 || s->code > 699)
			wrong("no status code", w);
		snprintf(s->text, sizeof s->text, "%s", *p == '"' ? string(&p) : reason_text(s->code));
		while (word(&p, w, sizeof w)) {
			if (!strncmp(w, "totag=", 6))
				snprintf(s->totag, sizeof s->totag, "%s", w + 6);
			else if (!strcmp(w, "body"))
				s->body = true;
			else if (!strcmp(w, "dies"))
				s->negative = true;
			else
				wrong("unexpected", w);
		}
	} else if (!strcmp(key, "timeout") || !strcmp(key, "dlg_timeout") || !strcmp(key, "dlg_end")) {
		s = add(key[0] == 't' ? SP_TIMEOUT : key[4] == 't' ? SP_DLG_TIMEOUT : SP_DLG_END);
		s->worker = s->kind == SP_DLG_END ? 1 : 0;
		word(&p, s->name, sizeof s->name);
		if (s->kind == SP_TIMEOUT)
			split_branch(s);
		if (word(&p, w, sizeof w) && !strcmp(w, "in") && word(&p, w, sizeof w))
			s->worker = atoi(w);
	} else if (!strcmp(key, "dlg_save")) {
		add(SP_DLG_SAVE)->worker = 0;
	} else if (!strcmp(key, "dlg_set") || !strcmp(key, "dlg_replicated")) {
		s = add(SP_DLG_SET);
		word(&p, s->name, sizeof s->name);
		word(&p, s->text, sizeof s->text);
		s->arg = string_of(&p, &s->count);
		s->negative = key[4] == 'r';
	} else if (!strcmp(key, "dlg_keep") || !strcmp(key, "dlg_replay") || !strcmp(key, "dlg_has")) {
		s = add(key[4] == 'k' ? SP_DLG_KEEP : key[4] == 'r' ? SP_DLG_REPLAY : SP_DLG_HAS);
		/* the timer process does it all: what it keeps is its own */
		s->worker = 0;
		word(&p, s->name, sizeof s->name);
		word(&p, s->text, sizeof s->text);
		if (s->kind == SP_DLG_HAS)
			s->arg = string_of(&p, &s->count);
	} else if (!strcmp(key, "reap")) {
		add(SP_REAP)->worker = 0;
	} else if (!strcmp(key, "timers")) {
		s = add(SP_TIMERS);
		s->worker = 0;
		if (word(&p, w, sizeof w) && !strcmp(w, "in") && word(&p, w, sizeof w))
			s->worker = atoi(w);
	} else if (!strcmp(key, "local")) {
		s = add(SP_LOCAL);
		word(&p, w, sizeof w);
		s->worker = atoi(w);
		word(&p, s->msg, sizeof s->msg);
		if (!scenario_message(s->msg))
			wrong("no message", s->msg);
		snprintf(s->name, sizeof s->name, "%s", s->msg);
	} else if (!strcmp(key, "run")) {
		s = add(SP_RUN);
		word(&p, w, sizeof w);
		s->worker = atoi(w);
		word(&p, w, sizeof w);
		s->code = route_kind(w);
		snprintf(s->name, sizeof s->name, "%s", *p ? p : w);
	} else if (!strcmp(key, "sleep")) {
		add(SP_SLEEP)->count = atoi(p);
	} else if (!strcmp(key, "clock")) {
		add(SP_CLOCK)->count = atoi(p);
	} else if (!strcmp(key, "mark")) {
		add(SP_MARK);
	} else if (!strcmp(key, "signal")) {
		s = add(SP_SIGNAL);
		word(&p, s->name, sizeof s->name); /* attendant, timer, worker number, or pN = the module's Nth process */
		s->code = atoi(p);
	} else if (!strcmp(key, "shell")) {
		s = add(SP_SHELL);
		s->arg = string(&p);
	} else if (!strcmp(key, "loop")) {
		add(SP_LOOP)->count = atoi(p);
	} else if (!strcmp(key, "end")) {
		add(SP_END);
	} else if (!strcmp(key, "levels")) {
		add(SP_LEVELS);
	} else if (!strcmp(key, "expect")) {
		s = add(SP_EXPECT);
		s->within = 5;
		s->count = -1;
		while (word(&p, w, sizeof w)) {
			if (!strcmp(w, "within")) {
				word(&p, w, sizeof w);
				s->within = atof(w);
			} else if (!strcmp(w, "no")) {
				s->negative = true;
			} else if (!strcmp(w, "count")) {
				word(&p, w, sizeof w);
				s->count = atoi(w);
			} else if (!strcmp(w, "log")) {
				s->what = EX_LOG;
				s->arg = string(&p);
				break;
			} else if (!strcmp(w, "event")) {
				s->what = EX_EVENT;
				s->arg = string(&p);
				break;
			} else if (!strcmp(w, "row")) {
				s->what = EX_ROW;
				s->arg = string(&p);
				s->arg2 = string(&p);
				break;
			} else if (!strcmp(w, "stat")) {
				s->what = EX_STAT;
				word(&p, s->text, sizeof s->text);
				s->code = atoi(p);
				break;
			} else if (!strcmp(w, "down")) {
				s->what = EX_DOWN;
				s->code = *p ? atoi(p) : -1;
				break;
			} else if (!strcmp(w, "up")) {
				s->what = EX_UP;
				break;
			} else if (!strcmp(w, "live")) {
				s->what = EX_LIVE;
				s->code = atoi(p);
				break;
			} else if (!strcmp(w, "events")) {
				s->what = EX_EVENTS;
				s->code = atoi(p);
				break;
			} else if (!strcmp(w, "levels")) {
				s->what = EX_LEVELS;
				break;
			} else if (!strcmp(w, "shell")) {
				s->what = EX_SHELL;
				s->arg = string(&p);
				break;
			} else {
				wrong("expect what", w);
			}
		}
	} else {
		wrong("no such line", key);
	}
}

static void include(const char *file);

static void read_file(const char *file)
{
	char *l;

	reading = file;
	in = fopen(file, "r");
	if (!in) {
		fprintf(stderr, "%s: %s\n", file, strerror(errno));
		exit(2);
	}
	line_no = 0;
	while ((l = next_line())) {
		char *p = skip(l);

		if (!strncmp(p, "include ", 8))
			include(skip(p + 8));
		else if (*p && *p != '#')
			parse_line(p);
		free(l);
	}
	fclose(in);
}

static void include(const char *file)
{
	FILE *old = in;
	int old_line = line_no;
	const char *old_name = reading, *slash = strrchr(reading, '/');
	char path[1024];

	snprintf(path, sizeof path, "%.*s%s", slash && *file != '/' ? (int)(slash - reading + 1) : 0, reading, file);
	read_file(path);
	in = old;
	line_no = old_line;
	reading = old_name;
}

void scenario_parse(const char *file)
{
	parsing = settings;
	parsing.generation = 0;
	scenario.file = file;
	snprintf(scenario.title, sizeof scenario.title, "%s", file);
	read_file(file);
}

/* ---- driving ---- */
static pid_t server;
static int exit_code;
static int test_no, failures;
static time_t started, marked;
static double slow = 1;
static struct answer got;
static bool given_up; /* without a server the rest makes no sense */

int scenario_failures(void)
{
	return failures;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void tap(bool ok, int line, const char *fmt, ...)
{
	va_list ap;

	test_no++;
	if (!ok)
		failures++;
	printf("%sok %d - line %d: ", ok ? "" : "not ", test_no, line);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

static void comment(const char *text)
{
	for (const char *p = text; *p;) {
		const char *e = strchr(p, '\n');
		int n = e ? (int)(e - p) : (int)strlen(p);
		printf("#   %.*s\n", n > 1500 ? 1500 : n, p);
		p = e ? e + 1 : p + n;
	}
	fflush(stdout);
}

static bool server_ended(void)
{
	int st;
	pid_t p;

	while (server && (p = waitpid(-1, &st, WNOHANG)) > 0) {
		if (p == server) {
			server = 0;
			exit_code = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
		}
	}
	return !server;
}

static bool wait_end(double seconds)
{
	for (double until = now() + seconds * slow; !server_ended() && now() < until;)
		usleep(5000);
	return !server;
}

/* an answer of a process; false when there is none in time */
static bool hear(int no, double seconds)
{
	double until = now() + seconds * slow;
	struct pollfd fd = {channel[no][0], POLLIN, 0};

	for (;;) {
		if (poll(&fd, 1, 50) > 0 && fd.revents & POLLIN)
			return recv(channel[no][0], &got, sizeof got, 0) == sizeof got;
		if (server_ended() || now() > until)
			return false;
	}
}

static char log_path[300];

static bool start(struct step *s)
{
	if (s->kind == SP_START || s->kind == SP_START_FAILS)
		if (s->generation == 0)
			S->saved_no = 0;
	settings = *s->set;
	if (!settings.persist)
		S->saved_no = 0;
	S->status = ST_STARTING;
	for (int i = 0; i <= settings.workers; i++) {
		if (channel[i][0])
			close(channel[i][0]);
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, channel[i]) < 0) {
			perror("socketpair");
			exit(2);
		}
	}
	started = time(NULL);
	fflush(stdout);
	server = fork();
	if (server == 0) {
		int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);

		dup2(fd, 2);
		dup2(fd, 1);
		close(fd);
		for (int i = 0; i <= settings.workers; i++)
			close(channel[i][0]);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (settings.env[0])
			putenv(settings.env);
		server_main();
	}
	for (int i = 0; i <= settings.workers; i++)
		close(channel[i][1]);
	for (int i = 0; i <= settings.workers; i++)
		if (!hear(i, 30))
			return false;
	return true;
}

/* all of the log, from the beginning */
struct lines {
	char **line;
	bool *used;
	int count;
};
static struct lines log_lines, event_lines;

static void split(struct lines *l, const char *text, size_t len, size_t *seen)
{
	const char *p = text + *seen, *end = text + len, *e;

	while (p < end && (e = memchr(p, '\n', (size_t)(end - p)))) {
		l->line = realloc(l->line, (size_t)(l->count + 1) * sizeof *l->line);
		l->used = realloc(l->used, (size_t)(l->count + 1) * sizeof *l->used);
		l->line[l->count] = strndup(p, (size_t)(e - p));
		l->used[l->count++] = false;
		p = e + 1;
	}
	*seen = (size_t)(p - text);
}

static void read_log(void)
{
	static size_t seen;
	FILE *f = fopen(log_path, "r");
	long size;
	char *text;

	if (!f)
		return;
	fseek(f, 0, SEEK_END);
	size = ftell(f);
	text = malloc((size_t)size + 1);
	rewind(f);
	size = (long)fread(text, 1, (size_t)size, f);
	fclose(f);
	split(&log_lines, text, (size_t)size, &seen);
	free(text);
}

static void read_events(void)
{
	static size_t seen;

	split(&event_lines, S->events, S->event_len, &seen);
}

/* a pattern: * any text, {*} any text without ; or blank, {n} a number, {n:a..b} one in between, {t} a time since the
 * server was started, {t+n} n seconds after the mark (one more or less) */
static bool fits(const char *pat, const char *s)
{
	for (;; pat++, s++) {
		if (!*pat)
			return !*s;
		if (*pat == '*') {
			for (;; s++) {
				if (fits(pat + 1, s))
					return true;
				if (!*s)
					return false;
			}
		}
		if (*pat == '{') {
			const char *end = strchr(pat, '}');

			if (end && pat[1] == '*') {
				for (;; s++) {
					if (fits(end + 1, s))
						return true;
					if (!*s || *s == ';' || *s == ' ')
						return false;
				}
			}
			if (end && (pat[1] == 'n' || pat[1] == 't')) {
				char *after;
				long long v = strtoll(s, &after, 10), lo, hi;

				if (after == s || !(isdigit((unsigned char)*s) || *s == '-'))
					return false;
				if (pat[1] == 'n' && sscanf(pat, "{n:%lld..%lld}", &lo, &hi) == 2) {
					if (v < lo || v > (slow > 1 ? (long long)((double)(hi + 2) * slow) : hi))
						return false;
				} else if (pat[1] == 't' && sscanf(pat, "{t+%lld}", &lo) == 1) {
					if (v < (long long)marked + lo - 1 || v > (long long)marked + lo + 1 + (slow > 1 ? (long long)(slow * 2) : 0))
						return false;
				} else if (pat[1] == 't') {
					if (v < (long long)started - 3600 || v > (long long)time(NULL) + 1)
						return false;
				}
				return fits(end + 1, after);
			}
		}
		if (*pat == '\\' && pat[1])
			pat++;
		if (*pat != *s)
			return false;
	}
}

/* the end is fixed, the beginning is not: log lines have prefixes */
static bool fits_line(const char *pat, const char *line, bool anywhere)
{
	for (;; line++) {
		if (fits(pat, line))
			return true;
		if (!anywhere || !*line)
			return false;
	}
}

static int find_line(struct lines *l, const char *pat, bool anywhere, bool take, bool fresh, int *count)
{
	int found = -1;

	*count = 0;
	for (int i = 0; i < l->count; i++) {
		if (fresh && l->used[i])
			continue;
		if (fits_line(pat, l->line[i], anywhere)) {
			(*count)++;
			if (found < 0)
				found = i;
		}
	}
	if (found >= 0 && take)
		l->used[found] = true;
	return found;
}

static char *command_output(const char *command, int *status)
{
	FILE *p = popen(command, "r");
	char *out = calloc(1, 1 << 20);
	size_t n = p ? fread(out, 1, (1 << 20) - 1, p) : 0;

	*status = p ? pclose(p) : -1;
	while (n && out[n - 1] == '\n')
		out[--n] = 0;
	return out;
}

static void show_lines(struct lines *l, const char *key)
{
	for (int i = l->count > 400 ? l->count - 400 : 0; i < l->count; i++)
		if (!l->used[i] && (!key || strstr(l->line[i], key)))
			comment(l->line[i]);
}

static void expect_lines(struct step *s)
{
	bool log = s->what == EX_LOG;
	struct lines *l = log ? &log_lines : &event_lines;
	double until = now() + (s->negative || s->count >= 0 ? 0.4 : s->within) * slow;
	int at, count;
	const char *what = log ? "log" : "event";

	if (s->count > 0)
		until = now() + s->within * slow;
	for (;;) {
		if (log)
			read_log();
		else
			read_events();
		at = find_line(l, s->arg, log, !s->negative && s->count < 0, s->count < 0, &count);
		if (s->negative && at >= 0) {
			tap(false, s->line, "no %s %s", what, s->arg);
			comment(l->line[at]);
			return;
		}
		if (s->count > 0 && count == s->count) {
			/* a moment for one too many */
			usleep((useconds_t)(300000 * slow));
			if (log)
				read_log();
			else
				read_events();
			find_line(l, s->arg, log, false, false, &count);
			break;
		}
		if (!s->negative && s->count < 0 && at >= 0) {
			tap(true, s->line, "%s %.300s", what, s->arg);
			return;
		}
		if (now() > until)
			break;
		usleep(10000);
	}
	if (s->negative) {
		tap(true, s->line, "no %s %s", what, s->arg);
	} else if (s->count >= 0) {
		tap(count == s->count, s->line, "%d times %s %.300s (there are %d)", s->count, what, s->arg, count);
	} else {
		tap(false, s->line, "%s %.1500s", what, s->arg);
		comment("what there is:");
		show_lines(l, log ? NULL : NULL);
	}
}

static void say(struct step *s, const char *what, const char *name, bool ok)
{
	if (got.text[0] || !ok || got.failures)
		tap(ok && !got.failures, s->line, "%s %s", what, name);
	else if (got.passes)
		tap(true, s->line, "%s %s: %d checks in the script", what, name, got.passes);
	if (got.text[0])
		comment(got.text);
}

/* one command to one process */
static bool tell(struct step *s, int index, int round, const char *what, const char *name)
{
	struct command c = {index, round};
	bool ok;

	memset(&got, 0, sizeof got);
	if (!server || s->worker < 0 || s->worker > settings.workers) {
		tap(false, s->line, "%s %s: no process %d", what, name, s->worker);
		return false;
	}
	ok = send(channel[s->worker][0], &c, sizeof c, MSG_NOSIGNAL) == sizeof c && hear(s->worker, 30);
	if (s->negative && (s->kind == SP_RECV || s->kind == SP_REPLY)) {
		tap(!ok, s->line, "%s %s: process %d dies of it", what, name, s->worker);
		return !ok;
	}
	if (!ok) {
		tap(false, s->line, "%s %s: process %d did not answer", what, name, s->worker);
		usleep(200000);
		server_ended();
		read_log();
		show_lines(&log_lines, NULL);
		given_up = true;
		return false;
	}
	say(s, what, name, true);
	return true;
}

/* what must not grow with the number of calls */
static struct levels {
	long host, files, descriptors[40], memory[40]; /* memory: KiB of the process alone */
} before;

static long entries(const char *path)
{
	DIR *d = opendir(path);
	long n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static long private_memory(pid_t pid)
{
	char path[64], line[128];
	long total = 0, n;

	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "Private_Dirty: %ld", &n) == 1)
			total += n;
	if (f)
		fclose(f);
	return total;
}

static struct levels levels(void)
{
	struct levels l = {.host = S->live_bytes};
	char path[300];

	snprintf(path, sizeof path, "%s/journal", workdir);
	l.files = entries(path);
	for (int i = 0; i < S->pids; i++) {
		snprintf(path, sizeof path, "/proc/%d/fd", (int)S->pid[i]);
		l.descriptors[i] = entries(path);
		l.memory[i] = private_memory(S->pid[i]);
	}
	return l;
}

/* the host's allocator and caches settle at the first calls; afterwards a process may take this much more,
 * in KiB: SQLite fills its page cache of 2 MiB, and the sanitizer keeps freed memory of 256 MiB from being used again */
#ifdef __SANITIZE_ADDRESS__
#define MEMORY_ROOM (256 << 10)
#else
#define MEMORY_ROOM 4096
#endif

/* one segment is kept for what is carried over from others: ends of calls whose states stand in the present ones */
#define FILES_ROOM 1

static bool same_levels(const struct levels *now)
{
	bool same = now->host == before.host && now->files <= before.files + FILES_ROOM;

	for (int i = 0; i < S->pids; i++)
		same = same && now->descriptors[i] == before.descriptors[i] && now->memory[i] <= before.memory[i] + MEMORY_ROOM;
	return same;
}

static void show_levels(const char *when, const struct levels *l)
{
	printf("# %s: %ld bytes of the host's shared memory, %ld names in the journal; descriptors and KiB of each process:", when, l->host, l->files);
	for (int i = 0; i < S->pids; i++)
		printf(" %ld/%ld", l->descriptors[i], l->memory[i]);
	printf("\n");
}

static void expect(struct step *s, int index)
{
	double until = now() + s->within * slow;
	int status;
	char *out = NULL;

	switch ((enum expect_what)s->what) {
	case EX_LOG: case EX_EVENT:
		expect_lines(s);
		break;
	case EX_ROW: {
		char *sql = malloc(strlen(s->arg) + 1024), path[300];

		snprintf(path, sizeof path, "%s/query.sql", workdir);
		FILE *f = fopen(path, "w");
		fprintf(f, "%s;\n", s->arg);
		fclose(f);
		sprintf(sql, "sqlite3 -batch -bail -separator '|' -nullvalue NULL -cmd '.timeout 2000' %s/acc.db < %s 2>&1", workdir, path);
		for (;;) {
			free(out);
			out = command_output(sql, &status);
			if (fits(s->arg2, out) || now() > until)
				break;
			usleep(50000);
		}
		tap(fits(s->arg2, out), s->line, "row %.300s", s->arg2);
		if (!fits(s->arg2, out))
			comment(out);
		free(sql);
		break;
	}
	case EX_STAT:
		s->worker = 1;
		for (;;) {
			struct command c = {index, 0};
			if (send(channel[1][0], &c, sizeof c, MSG_NOSIGNAL) != sizeof c || !hear(1, 10)) {
				got.step = -2;
				break;
			}
			if (got.step == s->code || now() > until)
				break;
			usleep(20000);
		}
		tap(got.step == s->code, s->line, "statistic %s is %d (it is %d)", s->text, s->code, got.step);
		break;
	case EX_DOWN:
		tap(wait_end(s->within) && (s->code < 0 || exit_code == s->code), s->line, "the server is down%s%d", s->code >= 0 ? " with " : ", it was ",
		    exit_code);
		break;
	case EX_UP:
		usleep(100000);
		tap(!server_ended(), s->line, "the server is up");
		break;
	case EX_LIVE: {
		long live = S->live[K_TRAN] + S->live[K_DIALOG];
		tap(live == s->code, s->line, "%d transactions and dialogs (there are %ld + %ld)", s->code, S->live[K_TRAN], S->live[K_DIALOG]);
		break;
	}
	case EX_EVENTS:
		tap(S->event_no == s->code, s->line, "%d events in all (there are %d)", s->code, S->event_no);
		break;
	case EX_LEVELS: {
		struct levels l;

		for (l = levels(); !same_levels(&l) && now() < until; l = levels())
			usleep(100000);
		tap(same_levels(&l), s->line, "memory, descriptors and the journal are at the level they had");
		show_levels("before", &before);
		show_levels("now", &l);
		break;
	}
	case EX_SHELL:
		for (;;) {
			free(out);
			out = command_output(s->arg, &status);
			if (status == 0 || now() > until)
				break;
			usleep(100000);
		}
		tap(status == 0, s->line, "shell %.200s", s->arg);
		if (status)
			comment(out);
		break;
	}
	free(out);
}

static void stop(int line)
{
	static const char *const kind[] = {"messages", "transactions", "dialogs", "callbacks", "values", "events"};

	if (!server)
		return;
	kill(server, SIGTERM);
	if (!wait_end(70)) {
		tap(false, line, "the server ends on SIGTERM");
		kill(server, SIGKILL);
		wait_end(5);
		return;
	}
	tap(exit_code == 0, line, "the server ends on SIGTERM with 0 (it was %d)", exit_code);
	if (exit_code) {
		read_log();
		show_lines(&log_lines, NULL);
	}
	for (int i = 0; exit_code == 0 && i < K_EVENT; i++)
		if (S->live[i])
			tap(false, line, "nothing of the host's is left (%ld %s are)", S->live[i], kind[i]);
}

static void kill_all(void)
{
	if (!server)
		return;
	kill(server, SIGKILL);
	for (int i = 0; i < S->pids; i++)
		if (S->pid[i] > 0)
			kill(S->pid[i], SIGKILL);
	wait_end(5);
}



static void starts(struct step *s, const char *how)
{
	bool ok = start(s);

	tap(ok, s->line, "the server starts%s", how);
	if (!ok) {
		read_log();
		show_lines(&log_lines, NULL);
		kill_all();
		given_up = true;
	}
}

int scenario_run(void)
{
	int loop_at = -1, loop_left = 0, round = 0;

	if (getenv("HOST_SLOW"))
		slow = atof(getenv("HOST_SLOW"));
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	snprintf(log_path, sizeof log_path, "%s/host.log", workdir);
	printf("# %s\n", scenario.title);
	marked = time(NULL);
	for (int i = 0; i < scenario.steps && !given_up; i++) {
		struct step *s = &scenario.step[i];
		pid_t pid;
		int status;

		switch (s->kind) {
		case SP_START: starts(s, ""); break;
		case SP_START_FAILS: {
			bool up = start(s), down = up ? false : wait_end(10);
			tap(!up && down && exit_code != 0 && (s->code < 0 || exit_code == s->code), s->line, "the server refuses to start (it %s, %d)",
			    up ? "did" : "ended", exit_code);
			if (up)
				kill_all();
			break;
		}
		case SP_STOP: stop(s->line); break;
		case SP_RESTART:
			stop(s->line);
			starts(s, " again");
			break;
		case SP_KILL9:
			kill_all();
			starts(s, " again after SIGKILL");
			break;
		case SP_RECV: tell(s, i, round, "request", s->msg); break;
		case SP_REPLY: tell(s, i, round, "reply to", s->name); break;
		case SP_TIMEOUT: tell(s, i, round, "timeout of", s->name); break;
		case SP_DLG_TIMEOUT: tell(s, i, round, "end of lifetime of", s->name); break;
		case SP_DLG_END: tell(s, i, round, "end by management of", s->name); break;
		case SP_DLG_SAVE: tell(s, i, round, "saving", "dialogs"); break;
		case SP_DLG_SET: case SP_DLG_KEEP: case SP_DLG_REPLAY: case SP_DLG_HAS: tell(s, i, round, "dialog value", s->text); break;
		case SP_REAP: tell(s, i, round, "deleting", "transactions"); break;
		case SP_LOCAL: tell(s, i, round, "own request", s->msg); break;
		case SP_TIMERS: tell(s, i, round, "timers of", "modules"); break;
		case SP_RUN: tell(s, i, round, "route", s->name); break;
		case SP_SLEEP: usleep((useconds_t)s->count * 1000); break;
		case SP_MARK: marked = time(NULL); break;
		case SP_CLOCK: S->clock_step += s->count; break;
		case SP_LEVELS: before = levels(); break;
		case SP_SIGNAL:
			pid = !strcmp(s->name, "attendant") ? server : !strcmp(s->name, "timer") ? S->pid[0]
			      : s->name[0] == 'p' ? S->pid[settings.workers + atoi(s->name + 1)] : S->pid[atoi(s->name)];
			if (pid > 0)
				kill(pid, s->code);
			usleep(50000);
			break;
		case SP_SHELL: {
			char *out = command_output(s->arg, &status);
			if (status)
				comment(out);
			free(out);
			break;
		}
		case SP_LOOP:
			loop_at = i;
			loop_left = s->count;
			round = 1;
			break;
		case SP_END:
			if (--loop_left > 0 && loop_at >= 0) {
				round++;
				i = loop_at;
			}
			break;
		case SP_EXPECT: expect(s, i); break;
		default: break;
		}
	}
	stop(0);
	printf("1..%d\n", test_no);
	return failures != 0;
}
