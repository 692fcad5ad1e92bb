/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A small SIP server host for tests: it loads the module by the rules of the real one, forks workers, and plays
 * transactions and dialogs made from real SIP text. See ../README.md.
 *
 *   runner (scenario, expectations, TAP) -> attendant (loads, inits, forks) -> workers, timer, module processes
 *
 * The scenario is parsed before anything is forked: every process has it, a command is the number of a step.
 */
#ifndef HOST_H
#define HOST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define OS_ABI_DECLARE_HOST
#include "opensips_abi.h"

#define STR_FMT(x_) (int)(x_).len, (x_).s ? (x_).s : ""

/* ---- the version we pose as ---- */
struct version {
	int major, minor, sub;
	int row; /* major * 10000 + minor * 100 + sub */
	char full[64];
	const char *flags;
	int t_ctx; /* offset of t_ctx_register_ptr */
	int spec_size;
	int next; /* offset of the link in struct sr_module */
};
extern struct version version;
int version_set(const char *text);

/* ---- shared memory ---- */
enum kind { K_MSG, K_TRAN, K_DIALOG, K_CALLBACK, K_VALUE, K_EVENT, K_COUNT };
enum status { ST_STARTING, ST_RUNNING, ST_TERMINATING };

#define MAX_SAVED 64
struct saved_value {
	char name[32];
	int type, n, len;
	char data[2048];
};
struct saved_dialog { /* what a dialog database would hold */
	char name[64], callid[256], ftag[64], ttag[64];
	int state, bye_on_timeout, values;
	struct saved_value value[16];
};

struct shared {
	volatile int lock;
	volatile int status;
	size_t used;
	void *free_list[48];
	long live[K_COUNT];
	long live_bytes;
	struct os_cell *trans;
	struct os_dlg_cell *dialogs;
	int tran_no;
	int dialog_no;
	int event_no; /* all that were raised */
	size_t event_len;
	char events[1 << 20]; /* the recorder: one line per event raised */
	int log_level_value;
	pid_t attendant, pid[40]; /* 0 the timer, 1.. the workers, then the module's processes */
	int pids;
	volatile int clock_step; /* seconds by which the wall clock was stepped */
	int saved_no;
	struct saved_dialog saved[MAX_SAVED];
	_Alignas(16) char heap[];
};
extern struct shared *S;
void shm_map(void);
void shm_reset(void); /* a new server: everything but the saved dialogs and the events goes */
void *shm_new(enum kind kind, size_t size);
void shm_drop(enum kind kind, void *p);

/* ---- messages ---- */
#define MSG_ALIVE 0x5349504du
#define MSG_DEAD 0xdeadbeefu
enum header { H_FROM = 1, H_TO = 2, H_CALLID = 4, H_CSEQ = 8, H_OTHER = 16 };
struct os_sip_msg {
	unsigned magic;
	int id;
	bool shared, request, dummy;
	unsigned parsed; /* headers looked at while it was private */
	unsigned flags;  /* of setflag() */
	char *buf;
	int len;
	os_str method, ruri, status, reason;
	int code;
	os_str callid, from, from_uri, from_tag, to, to_uri, to_tag, cseq, cseq_no, cseq_method, branch, content_length, user_agent, body;
	os_str new_uri; /* what a branch was sent to */
};
os_sip_msg *msg_parse(const char *text, int len);        /* private */
os_sip_msg *msg_clone(const os_sip_msg *m);              /* shared */
os_sip_msg *msg_private_copy(const os_sip_msg *m);
void msg_free(os_sip_msg *m);
int flag_number(const char *name, int len); /* a new name gets the next one */
os_str msg_header(const os_sip_msg *m, const char *name, int len);
void msg_readable(os_sip_msg *m, const char *what, unsigned header);
int msg_uri_user(os_str uri, os_str *user, os_str *domain);
bool str_is(os_str s, const char *text);
bool str_same(os_str a, os_str b);

/* ---- variables ---- */
struct os_pv_spec {
	os_pv_type type;
	os_pv_get_fn *getf;
	os_pv_set_fn *setf;
	os_pv_param pvp;
	char tail[OS_PV_SPEC_ROOM - OS_PV_SPEC_PVP - sizeof(os_pv_param)];
};
struct format { /* a string with variables in it */
	os_str text;
	struct os_pv_spec *spec;
	struct format *next;
};
void pv_register(const os_pv_export *items);
struct format *format_parse(const char *text, int len); /* NULL: an unknown variable, logged */
bool format_is_plain(const struct format *f);
char *format_print(os_sip_msg *m, const struct format *f, int *len);

/* ---- log, processes ---- */
void host_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void host_abort(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define LM_ERR(...) host_log(OS_L_ERR, __VA_ARGS__)
#define LM_WARN(...) host_log(OS_L_WARN, __VA_ARGS__)
#define LM_INFO(...) host_log(OS_L_INFO, __VA_ARGS__)

extern int current_route; /* OS_*_ROUTE */
extern const char *process_name;

/* ---- script ---- */
enum arg_kind { A_NONE, A_NUMBER, A_STRING, A_VAR, A_NULL };
enum bound_kind { B_NULL, B_VALUE, B_FIXED, B_FORMAT, B_SPEC };
struct arg {
	enum arg_kind kind;
	long number;
	char *text;
	int len;
	struct os_pv_spec *spec; /* A_VAR */
	struct format *format;   /* A_STRING */
	enum bound_kind bound;
	os_str value;
	int ivalue;
	void *fixed;
};
enum stmt_kind { SM_CALL, SM_ASSIGN, SM_CHECK, SM_XLOG };
struct stmt {
	enum stmt_kind kind;
	int line;
	char *text, *name;
	struct os_pv_spec *target;
	const os_cmd_export *cmd; /* NULL: one of ours */
	int core;                 /* which of ours */
	int nargs;
	struct arg arg[10];
	bool has_expect;
	int expect;
	struct stmt *next;
};
struct route {
	int kind; /* OS_*_ROUTE */
	char name[64];
	int line, generation;
	struct stmt *first;
	struct route *next;
};

/* ---- scenario ---- */
enum step_kind {
	SP_START, SP_START_FAILS, SP_STOP, SP_RESTART, SP_KILL9, SP_RECV, SP_REPLY, SP_TIMEOUT, SP_DLG_TIMEOUT, SP_DLG_END, SP_DLG_SAVE,
	SP_DLG_SET, SP_REAP, SP_LOCAL, SP_SLEEP, SP_SIGNAL, SP_LEVELS, SP_EXPECT, SP_MODPARAM, SP_HOST, SP_SHELL, SP_LOOP, SP_END, SP_MARK,
	SP_CLOCK, SP_RUN,
	SP_TIMERS,
	SP_DLG_KEEP, SP_DLG_REPLAY, SP_DLG_HAS
};
enum expect_what { EX_LOG, EX_EVENT, EX_ROW, EX_STAT, EX_DOWN, EX_UP, EX_LIVE, EX_SHELL, EX_EVENTS, EX_LEVELS };
struct settings;
struct step {
	enum step_kind kind;
	int line, generation, worker, code, branch, count, what;
	char name[64], msg[64], text[256], totag[64];
	char *arg, *arg2; /* long texts */
	bool body, negative;
	double within;
	struct settings *set;
	struct route *route;
};
struct message {
	char name[64];
	char *text;
	int len;
	struct message *next;
};
struct scenario {
	const char *file;
	char title[128];
	struct step *step;
	int steps;
	struct route *routes;
	struct message *messages;
};
extern struct scenario scenario;
void scenario_parse(const char *file);
struct message *scenario_message(const char *name);
struct stmt *stmt_parse(char *text, int line); /* exits with a message when it makes no sense */

int route_compile(struct route *r, bool fix); /* 0, or -1 with a line in the log */
int route_run(struct route *r, os_sip_msg *m); /* 0 = stop (exit, drop) */
struct route *route_find(int kind, const char *name);
bool route_in_force(struct route *r);

/* ---- settings of a server ---- */
#define MAX_PARAMS 64
struct settings {
	char module[512];
	int workers, log_level;
	bool to_stderr, to_syslog, dialog, dialog_first, dialog_full, rr, append_fromtag, tm, early_check;
	char subscribed[512];
	char db_default_url[512];
	char env[256]; /* NAME=VALUE for the server */
	struct {
		char name[64];
		bool string;
		char *text;
		long number;
	} param[MAX_PARAMS];
	int params;
	int generation;
	bool foreign; /* no other module is loaded that the version could be learnt from */
	bool persist; /* is there a dialog database */
	char odd[32]; /* what this server has in another way than the known versions */
};
extern struct settings settings;
bool odd(const char *what);

/* ---- core ---- */
#define MAX_MODULES 16
int core_load(void);   /* modules, parameters, scripts; exits like the real one */
int core_init(void);   /* dependencies, preinit, init, fixups */
int core_init_child(int rank);
int core_run_procs(void (*forked)(pid_t pid, const char *name));
void core_destroy(void);
void core_stat(const char *name, long *value);
void context_begin(void);
void context_end(void);
void *context_push(void);         /* a context for work outside of a message */
void context_pop(void *old);
void context_destroy_values(os_context kind, void *ctx);
void *context_get_ptr(os_context kind, void *ctx, int pos);
void context_put_ptr(os_context kind, void *ctx, int pos, void *value);
const char *reason_text(int code);

/* ---- tm ---- */
struct tm_cb {
	int types;
	os_transaction_cb *f;
	void *param;
	os_release_tmcb_param *release;
	bool ours; /* of another module of this host */
	struct tm_cb *next;
};
struct cb_list {
	struct tm_cb *first;
	int types;
};
#define MAX_BRANCHES 12
struct branch {
	int last;
	os_sip_msg *reply; /* a shared clone, OS_FAKED_REPLY, or for a moment a private reply */
	char uri[128];
	bool replied, to_cancel;
};
struct os_cell {
	char name[64];
	int no;
	bool local, invite, was_cancelled, completed, no_new_branches;
	struct cb_list cbs;
	os_sip_msg *req;
	int status, branches, relayed_branch;
	struct branch b[MAX_BRANCHES];
	char on_failure[64], on_reply[64], on_branch[64];
	struct os_dlg_cell *dialog;
	os_str via_branch;
	struct os_cell *next;
	char ctx[256];
};
extern os_cell *T;
extern char request_name[64];
extern const os_module_exports tm_exports, dialog_exports, rr_exports, first_exports;
os_cell *tm_find(const char *name);
int tm_register(os_sip_msg *m, os_cell *t, int types, os_transaction_cb *f, void *param, os_release_tmcb_param *release);
void tm_request_begin(os_sip_msg *m, const char *name);
void tm_request_end(os_sip_msg *m);
int tm_relay(os_sip_msg *m, int extra);
int tm_relay_error(os_sip_msg *m, int code);
int tm_newtran(os_sip_msg *m);
int tm_check_trans(os_sip_msg *m);
int tm_reply(os_sip_msg *m, int code, const char *reason, const char *totag);
int tm_append_branch(void);
void tm_set_route(const char *what, const char *name);
int tm_reply_received(os_sip_msg *rpl, const char *tran, int branch);
void tm_timeout(const char *tran, int branch);
os_cell *tm_local(const char *name, const char *text, int len, os_dlg_cell *dlg, os_transaction_cb *cb, void *param,
                  os_release_tmcb_param *release);
void tm_reap(bool all);
extern bool relayed_stateless;

/* ---- dialog ---- */
enum dlg_state { D_UNCONFIRMED = 1, D_EARLY, D_CONFIRMED_NA, D_CONFIRMED, D_DELETED };
struct dlg_cb {
	int types;
	os_dialog_cb *f;
	void *param;
	os_param_free_cb *release;
	struct dlg_cb *next;
};
struct dlg_val {
	os_str name;
	int type;
	os_int_str val;
	struct dlg_val *next;
};
struct os_dlg_cell {
	char name[64];
	char *callid, *ftag, *ttag;
	int state, ref, legs;
	bool init, bye_on_timeout, lifetime_over, has_bye, in_timer, cancelled;
	struct dlg_cb *cbs;
	int cb_types;
	struct dlg_val *vals;
	struct os_dlg_cell *next;
	char ctx[128];
};
os_dlg_cell *dlg_current(void);
int dlg_create(os_sip_msg *m, bool bye_on_timeout);
int dlg_match(os_sip_msg *m);
void dlg_cleanup(void);
void dlg_timeout(const char *name);
void dlg_end(const char *name);
void dlg_save_all(bool on_shutdown);
int dlg_set(const char *name, const char *value, os_str text, bool replicated);
int dlg_keep(const char *name, const char *value);
int dlg_replay(const char *name, const char *value);
bool dlg_has(const char *name, const char *value, os_str text);
void dlg_unref_cell(os_dlg_cell *d, int n);

/* ---- server and runner ---- */
#define MAX_WORKERS 16
struct answer { /* of a process to the runner */
	int step;
	int failures, passes;
	char text[8000];
};
extern struct answer answer;
void report(bool ok, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
struct command {
	int step, round;
};
extern int channel[MAX_WORKERS + 1][2]; /* [0] the timer, [1..] the workers; side 0 is the runner's */
extern char workdir[256];               /* {dir} in scenarios */
_Noreturn void server_main(void);
int scenario_run(void);
int scenario_failures(void);

#endif
