/* SPDX-License-Identifier: GPL-2.0-or-later
 * The processes of the server: the attendant, its children, signals and the end of it all. */
#include "host.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int channel[MAX_WORKERS + 1][2];
struct answer answer;

static volatile sig_atomic_t sig_flag;
static int ipc[MAX_WORKERS + 1][2]; /* how the attendant asks a child to end */

static void on_signal(int n)
{
	if (getpid() == S->attendant) { /* true in no child, not even right after the fork */
		if (!sig_flag)
			sig_flag = n;
		return;
	}
	if (n == SIGTERM) {
		if (S->status != ST_TERMINATING) /* children only listen to the attendant */
			return;
		exit(0);
	}
	if (n == SIGCHLD)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
}

static void install_signals(void)
{
	static const int list[] = {SIGINT, SIGPIPE, SIGUSR1, SIGUSR2, SIGCHLD, SIGTERM, SIGHUP};

	for (size_t i = 0; i < sizeof list / sizeof *list; i++)
		signal(list[i], on_signal);
}

void report(bool ok, int line, const char *fmt, ...)
{
	size_t n = strlen(answer.text);
	va_list ap;

	if (ok) {
		answer.passes++;
		return;
	}
	answer.failures++;
	n += (size_t)snprintf(answer.text + n, sizeof answer.text - n, "line %d: ", line);
	if (n >= sizeof answer.text)
		return;
	va_start(ap, fmt);
	vsnprintf(answer.text + n, sizeof answer.text - n - 2, fmt, ap);
	va_end(ap);
	strcat(answer.text, "\n");
}

/* whom the server turns into: nobody else */
char *user, *group;

int user2uid(int *uid, int *gid, char *name)
{
	(void)uid, (void)gid, (void)name;
	return -1;
}

int group2gid(int *gid, char *name)
{
	(void)gid, (void)name;
	return -1;
}

/* ---- timers of modules: in the timer process, outside of any message ---- */
static struct {
	os_timer_fn *run;
	void *param;
	unsigned interval, next;
} timer[8];
static int timers;
static unsigned ticks;

int register_timer(char *label, os_timer_fn *run, void *param, unsigned int interval, unsigned short flags)
{
	(void)flags;
	if (S->status != ST_STARTING || !label || !run || !interval || timers == (int)(sizeof timer / sizeof timer[0]))
		return -1;
	timer[timers].run = run;
	timer[timers].interval = timer[timers].next = interval;
	timer[timers++].param = param;
	return 0;
}

static os_script_cb_fn *before_request, *before_reply;

int __register_script_cb(os_script_cb_fn *run, int type, void *param, int prio)
{
	(void)prio;
	os_script_cb_fn **place = type == (OS_PRE_SCRIPT_CB | OS_REQ_TYPE_CB) ? &before_request : &before_reply;

	if (S->status != ST_STARTING || (place == &before_reply && type != (OS_PRE_SCRIPT_CB | OS_RPL_TYPE_CB)) || param || *place)
		return -1;
	*place = run;
	return 0;
}

static void run_timers(bool all)
{
	T = OS_T_UNDEFINED;
	current_processing_ctx = NULL;
	for (int i = 0; i < timers; i++) {
		if (!all && timer[i].next > ticks)
			continue;
		timer[i].next = ticks + timer[i].interval;
		timer[i].run(ticks, timer[i].param);
	}
}

/* ---- what a worker does ---- */
/* %n in a message or a name is the round of the loop it is in */
static char *with_round(const char *text, int len, int round, int *out_len)
{
	char *out = malloc((size_t)len * 4 + 16), *o = out;

	for (int i = 0; i < len; i++) {
		if (text[i] == '%' && i + 1 < len && text[i + 1] == 'n') {
			o += sprintf(o, "%d", round);
			i++;
		} else {
			*o++ = text[i];
		}
	}
	*out_len = (int)(o - out);
	*o = 0;
	return out;
}

static void do_recv(struct step *s, int round)
{
	struct message *text = scenario_message(s->msg);
	struct route *r = s->route ? s->route : route_find(OS_REQUEST_ROUTE, s->text);
	int len;
	char *copy;
	os_sip_msg *m;

	if (!r) {
		report(false, s->line, "no route %s", s->text);
		return;
	}
	copy = with_round(text->text, text->len, round, &len);
	m = msg_parse(copy, len);
	free(copy);
	if (!m)
		return;
	tm_request_begin(m, s->name);
	current_route = OS_REQUEST_ROUTE;
	context_begin();
	if (before_request && before_request(m, NULL) != OS_SCB_RUN_ALL)
		report(false, s->line, "the script callback dropped a request");
	route_run(r, m);
	tm_request_end(m);
	dlg_cleanup();
	context_end();
	msg_free(m);
}

static os_sip_msg *build_reply(struct step *s, os_cell *t)
{
	static const char *const copied[] = {"Via", "From", "Call-ID", "CSeq", "Record-Route"};
	char *text = malloc((t->req ? (size_t)t->req->len : 0) + 4096), *o = text;
	static const char sdp[] = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0\r\n";
	os_sip_msg *m;

	o += sprintf(o, "SIP/2.0 %03d %s\r\n", s->code, s->text);
	if (t->req) {
		for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
			os_str v = msg_header(t->req, copied[i], (int)strlen(copied[i]));
			if (v.s)
				o += sprintf(o, "%s: %.*s\r\n", copied[i], STR_FMT(v));
		}
		o += sprintf(o, "To: %.*s", STR_FMT(t->req->to));
		if (s->totag[0] && !t->req->to_tag.len)
			o += sprintf(o, ";tag=%s", s->totag);
		o += sprintf(o, "\r\n");
	} else {
		o += sprintf(o, "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKlocal\r\nFrom: <sip:a@b>;tag=x\r\nTo: <sip:c@d>;tag=y\r\nCSeq: 2 BYE\r\n");
	}
	o += sprintf(o, "Contact: <sip:uas@127.0.0.1>\r\n");
	if (s->body)
		o += sprintf(o, "Content-Type: application/sdp\r\nContent-Length: %zu\r\n\r\n%s", sizeof sdp - 1, sdp);
	else
		o += sprintf(o, "Content-Length: 0\r\n\r\n");
	m = msg_parse(text, (int)(o - text));
	free(text);
	return m;
}

static void do_reply(struct step *s)
{
	os_cell *t = tm_find(s->name);
	struct route *r = route_find(OS_ONREPLY_ROUTE, "global");
	os_sip_msg *m;
	int rc = 1;

	if (!t) {
		report(false, s->line, "no transaction %s to answer", s->name);
		return;
	}
	m = build_reply(s, t);
	T = OS_T_UNDEFINED;
	current_route = OS_ONREPLY_ROUTE;
	context_begin();
	if (before_reply && before_reply(m, NULL) != OS_SCB_RUN_ALL)
		report(false, s->line, "the script callback dropped a reply");
	if (r)
		rc = route_run(r, m);
	if (!(rc < 0 && m->code < 200))
		if (tm_reply_received(m, s->name, s->branch) < 0)
			report(false, s->line, "no branch %d in transaction %s", s->branch, s->name);
	dlg_cleanup();
	context_end();
	msg_free(m);
}

static void do_run(struct step *s)
{
	static const char text[] = "DUMMY sip:user@dummy.invalid SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKd\r\nFrom: <sip:y@d>;tag=dummy\r\n"
	                           "To: <sip:u@d>\r\nCall-ID: dummy\r\nCSeq: 1 DUMMY\r\nContent-Length: 0\r\n\r\n";
	struct route *r = route_find(s->code, s->name);
	os_sip_msg *m;

	if (!r) {
		report(false, s->line, "no route %s", s->name);
		return;
	}
	m = msg_parse(text, (int)sizeof text - 1);
	tm_request_begin(m, "run");
	current_route = s->code;
	context_begin();
	route_run(r, m);
	tm_request_end(m);
	dlg_cleanup();
	context_end();
	msg_free(m);
}

static void do_local(struct step *s, int round)
{
	struct message *text = scenario_message(s->msg);
	int len;
	char *copy = with_round(text->text, text->len, round, &len);
	void *old = context_push();

	T = OS_T_UNDEFINED;
	tm_local(s->name, copy, len, NULL, NULL, NULL, NULL);
	context_pop(old);
	free(copy);
}

static void do_step(const struct command *c)
{
	struct step here = scenario.step[c->step], *s = &here;
	int len;
	char *name = with_round(s->name, (int)strlen(s->name), c->round, &len);

	snprintf(here.name, sizeof here.name, "%s", name);
	free(name);
	switch (s->kind) {
	case SP_RECV: do_recv(s, c->round); break;
	case SP_REPLY: do_reply(s); break;
	case SP_TIMEOUT: tm_timeout(s->name, s->branch); break;
	case SP_DLG_TIMEOUT: dlg_timeout(s->name); break;
	case SP_DLG_END:
		T = OS_T_UNDEFINED;
		dlg_end(s->name);
		break;
	case SP_DLG_SAVE: dlg_save_all(false); break;
	case SP_DLG_SET:
		if (dlg_set(s->name, s->text, (os_str){s->arg, s->count}, s->negative) < 0)
			report(false, s->line, "no dialog %s", s->name);
		break;
	case SP_DLG_KEEP:
	case SP_DLG_REPLAY:
		if ((s->kind == SP_DLG_KEEP ? dlg_keep : dlg_replay)(s->name, s->text) < 0)
			report(false, s->line, "no dialog %s, or no value %s", s->name, s->text);
		break;
	case SP_DLG_HAS:
		report(dlg_has(s->name, s->text, (os_str){s->arg, s->count}), s->line, "%s of dialog %s has \"%s\"", s->text, s->name, s->arg);
		break;
	case SP_REAP: tm_reap(false); break;
	case SP_LOCAL: do_local(s, c->round); break;
	case SP_RUN: do_run(s); break;
	case SP_TIMERS: run_timers(true); break;
	case SP_EXPECT: {
		long v;
		core_stat(s->text, &v);
		answer.step = (int)v;
		break;
	}
	default: host_abort("step %d in a worker", s->kind);
	}
}

static _Noreturn void child_main(int no)
{
	struct pollfd fd[2] = {{channel[no][1], POLLIN, 0}, {ipc[no][0], POLLIN, 0}};
	struct command c;

	if (core_init_child(no ? no : OS_PROC_TIMER) < 0) {
		LM_ERR("init_child failed for %s", process_name);
		exit(255);
	}
	memset(&answer, 0, sizeof answer);
	if (send(channel[no][1], &answer, sizeof answer, 0) < 0)
		exit(255);
	for (time_t began = time(NULL);;) {
		int n = poll(fd, 2, no ? -1 : 250);

		if (n < 0 && errno != EINTR)
			exit(255);
		if (!no) {
			ticks = (unsigned)(time(NULL) - began);
			run_timers(false);
		}
		if (n <= 0)
			continue;
		if (fd[1].revents) /* the attendant says it is over */
			exit(0);
		if (!(fd[0].revents & POLLIN) || recv(fd[0].fd, &c, sizeof c, 0) != sizeof c) {
			fd[0].fd = -1;
			continue;
		}
		memset(&answer, 0, sizeof answer);
		do_step(&c);
		if (send(channel[no][1], &answer, sizeof answer, 0) < 0)
			exit(255);
	}
}

/* ---- the attendant ---- */
static void forked(pid_t pid, const char *name)
{
	(void)name;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test host leaves nobody behind */
		return;
	}
	if (S->pids == 40)
		host_abort("too many processes");
	S->pid[S->pids++] = pid;
}

static _Noreturn void shutdown_server(int status)
{
	int left = 0, st, workers = settings.workers + 1;
	pid_t p;

	S->status = ST_TERMINATING;
	for (int i = 0; i < S->pids; i++) {
		if (S->pid[i] <= 0)
			continue;
		left++;
		if (i < workers) {
			if (write(ipc[i][1], "x", 1) < 0)
				kill(S->pid[i], SIGTERM);
		} else {
			kill(S->pid[i], SIGTERM);
		}
	}
	for (int i = 0; left && i < 6000; i++) {
		p = waitpid(-1, &st, WNOHANG);
		if (p <= 0) {
			usleep(10000);
			continue;
		}
		for (int k = 0; k < S->pids; k++) {
			if (S->pid[k] == p) {
				S->pid[k] = -1;
				status |= st;
				left--;
			}
		}
	}
	for (int i = 0; left && i < S->pids; i++) {
		if (S->pid[i] > 0) {
			LM_ERR("process %d did not end, killed", (int)S->pid[i]);
			kill(S->pid[i], SIGKILL);
			status |= 1;
		}
	}
	signal(SIGALRM, SIG_DFL);
	alarm(60);
	process_name = "attendant (end)";
	core_destroy();
	alarm(0);
	exit(status & 0xff ? status & 0xff : (status ? 1 : 0));
}

static void children_ended(void)
{
	int st, all = 0;
	bool known = false;
	pid_t p;

	while ((p = waitpid(-1, &st, WNOHANG)) > 0) {
		for (int k = 0; k < S->pids; k++) {
			if (S->pid[k] == p) {
				S->pid[k] = -1;
				known = true;
			}
		}
		all |= st;
		if (WIFEXITED(st))
			LM_INFO("child process %d exited normally, status=%d", (int)p, WEXITSTATUS(st));
		else
			LM_INFO("child process %d exited by a signal %d", (int)p, WTERMSIG(st));
	}
	if (known) {
		LM_INFO("terminating due to SIGCHLD");
		shutdown_server(all ? all : 1);
	}
}


void server_main(void)
{
	sigset_t block, open;

	shm_reset();
	S->pids = 0;
	S->attendant = getpid();
	process_name = "attendant";
	if (core_load() < 0 || core_init() < 0)
		exit(255);
	install_signals();
	S->pids = settings.workers + 1; /* their places come first */
	memset(S->pid, 0, sizeof S->pid);
	process_no = 0;
	S->status = ST_RUNNING;
	{
		int no = core_run_procs(forked);

		if (no < 0)
			exit(255);
		for (int i = 0; i <= settings.workers; i++) {
			pid_t pid;

			if (pipe(ipc[i]) < 0)
				exit(255);
			no++;
			pid = fork();
			if (pid < 0)
				exit(255);
			if (pid == 0) {
				static char name[32];
				forked(0, NULL);
				process_no = no;
				snprintf(name, sizeof name, i ? "worker %d" : "timer", i);
				process_name = name;
				child_main(i);
			}
			S->pid[i] = pid;
		}
	}
	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGINT);
	sigprocmask(SIG_BLOCK, &block, &open);
	for (;;) {
		int n = sig_flag;

		sig_flag = 0;
		if (n == SIGTERM || n == SIGINT)
			shutdown_server(0);
		children_ended(); /* also those that went before the flag was looked at */
		if (!sig_flag)
			sigsuspend(&open);
	}
}
