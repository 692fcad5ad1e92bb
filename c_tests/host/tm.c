/* SPDX-License-Identifier: GPL-2.0-or-later
 * A transaction module: what callbacks see, in the order and with the messages of the real one.
 *
 * The callback registered last runs first. Before a transaction exists, callbacks wait in a list of the process and
 * move to the transaction when it is made, before the request is shared. From then on callbacks get the shared
 * request; a reply is private in the process that received it and shared when it was kept for later. */
#include "host.h"

os_cell *T = OS_T_UNDEFINED;
bool relayed_stateless;

static struct cb_list *request_in;     /* for every new transaction: made before the fork, the same in all */
static struct cb_list pending;
static int pending_id = -1;
char request_name[64]; /* of the message in work: transactions and dialogs are called by it */
static int extra_branches;
static char next_failure[64], next_reply[64], next_branch[64];
static os_cell *cancelled_t;
static bool forwarded; /* did the failure route make new branches */
static int branch_index, picked_branch = -1;

int get_branch_index(void)
{
	return branch_index;
}

int t_get_picked_branch(void)
{
	return picked_branch;
}

/* ---- callbacks ---- */
static void insert(struct cb_list *list, int types, os_transaction_cb *f, void *param, os_release_tmcb_param *release, bool ours)
{
	struct tm_cb *cb = shm_new(K_CALLBACK, sizeof *cb);

	*cb = (struct tm_cb){types, f, param, release, ours, list->first};
	list->first = cb;
	list->types |= types;
}

static void empty(struct cb_list *list)
{
	struct tm_cb *cb, *next;

	for (cb = list->first; cb; cb = next) {
		next = cb->next;
		if (cb->release && cb->param)
			cb->release(cb->param);
		shm_drop(K_CALLBACK, cb);
	}
	list->first = NULL;
	list->types = 0;
}

static int add(os_sip_msg *m, os_cell *t, int types, os_transaction_cb *f, void *param, os_release_tmcb_param *release, bool ours)
{
	struct cb_list *list;

	if (types < 0 || types >= 1 << 19 || !f) {
		host_log(OS_L_CRIT, "invalid callback types: mask=%d", types);
		return -5;
	}
	if (types & (OS_TMCB_REQUEST_IN | OS_TMCB_LOCAL_TRANS_NEW)) {
		if (types & ~(OS_TMCB_REQUEST_IN | OS_TMCB_LOCAL_TRANS_NEW)) {
			host_log(OS_L_CRIT, "callback type TMCB_REQUEST_IN can't be register along with other types");
			return -5;
		}
		if (!request_in) {
			LM_ERR("callback type TMCB_REQUEST_IN registration attempt before TM module initialization");
			return -6;
		}
		list = request_in;
	} else if (t) {
		list = &t->cbs;
	} else if (!m) {
		host_log(OS_L_CRIT, "no sip_msg, nor transaction given");
		return -5;
	} else if (T && T != OS_T_UNDEFINED) {
		list = &T->cbs;
	} else {
		if (m->id != pending_id) {
			empty(&pending);
			pending_id = m->id;
		}
		list = &pending;
	}
	insert(list, types, f, param, release, ours);
	return 1;
}

int tm_register(os_sip_msg *m, os_cell *t, int types, os_transaction_cb *f, void *param, os_release_tmcb_param *release)
{
	return add(m, t, types, f, param, release, true);
}

/* modules find this one and its like by their names, which are those of the real one */
int register_tmcb(os_sip_msg *m, os_cell *t, int types, os_transaction_cb *f, void *param, os_release_tmcb_param *release)
{
	return add(m, t, types, f, param, release, false);
}

/* what a later release might pass to callbacks */
struct moved_params {
	os_sip_msg *req, *rpl;
	void *more;
	long code;
	void **param;
};

static void run(struct cb_list *list, int type, os_cell *t, os_sip_msg *req, os_sip_msg *rpl, int code)
{
	os_tmcb_params p = {req, rpl, code, NULL, NULL, NULL};
	os_cell *old = T;

	if (!list->first || !(list->types & type))
		return;
	for (struct tm_cb *cb = list->first; cb; cb = cb->next) {
		if (cb->types & type) {
			struct moved_params moved = {req, rpl, t, code, &cb->param};

			p.param = &cb->param;
			cb->f(t, type, !cb->ours && odd("tm_params") ? (os_tmcb_params *)&moved : &p);
		}
	}
	T = old;
}

/* ---- transactions ---- */
os_cell *tm_find(const char *name)
{
	for (os_cell *t = S->trans; t; t = t->next)
		if (!strcmp(t->name, name))
			return t;
	return NULL;
}

static os_cell *new_cell(const char *name)
{
	os_cell *t = shm_new(K_TRAN, sizeof *t);

	if (context_sizes[OS_CONTEXT_TRAN] > sizeof t->ctx)
		host_abort("the transaction context is too small");
	snprintf(t->name, sizeof t->name, "%s", name);
	t->no = ++S->tran_no;
	t->relayed_branch = -1;
	return t;
}

static void link_cell(os_cell *t)
{
	t->next = S->trans;
	S->trans = t;
}

void tm_request_begin(os_sip_msg *m, const char *name)
{
	(void)m;
	T = OS_T_UNDEFINED;
	cancelled_t = NULL;
	extra_branches = 0;
	next_failure[0] = next_reply[0] = next_branch[0] = 0;
	snprintf(request_name, sizeof request_name, "%s", name);
}

void tm_request_end(os_sip_msg *m)
{
	(void)m;
	empty(&pending);
	T = OS_T_UNDEFINED;
}

static os_cell *match(os_sip_msg *m)
{
	for (os_cell *t = S->trans; t; t = t->next)
		if (t->req && !t->local && str_same(t->via_branch, m->branch) && str_same(t->req->method, m->method))
			return t;
	return NULL;
}

static os_cell *match_invite(os_sip_msg *m)
{
	for (os_cell *t = S->trans; t; t = t->next)
		if (t->invite && t->req && !t->local && str_same(t->req->callid, m->callid) && str_same(t->req->from_tag, m->from_tag) &&
		    str_same(t->req->cseq_no, m->cseq_no))
			return t;
	return NULL;
}

/* 1: there is one (or, for a CANCEL or ACK, the INVITE's), 0: a retransmission, dealt with, -1: none */
int tm_check_trans(os_sip_msg *m)
{
	os_cell *t;

	if (str_is(m->method, "ACK"))
		return match_invite(m) ? 1 : -1;
	t = match(m);
	if (t) {
		T = t;
		return 0;
	}
	T = NULL;
	if (str_is(m->method, "CANCEL")) {
		cancelled_t = match_invite(m);
		if (!cancelled_t)
			return -1;
		run(&cancelled_t->cbs, OS_TMCB_TRANS_CANCELLED, cancelled_t, m, NULL, 0);
		return 1;
	}
	return -1;
}

int tm_newtran(os_sip_msg *m)
{
	os_cell *t;

	if (T && T != OS_T_UNDEFINED)
		return 1;
	if (str_is(m->method, "ACK")) {
		T = NULL;
		return 1;
	}
	if (match(m)) {
		T = NULL;
		return 0;
	}
	t = new_cell(request_name);
	t->invite = str_is(m->method, "INVITE");
	snprintf(t->on_failure, sizeof t->on_failure, "%s", next_failure);
	snprintf(t->on_reply, sizeof t->on_reply, "%s", next_reply);
	snprintf(t->on_branch, sizeof t->on_branch, "%s", next_branch);
	if (m->id == pending_id) {
		t->cbs = pending;
		pending.first = NULL;
		pending.types = 0;
	}
	T = t;
	run(request_in, OS_TMCB_REQUEST_IN, t, m, NULL, 0);
	t->req = msg_clone(m);
	t->via_branch = t->req->branch;
	link_cell(t);
	return 1;
}

void tm_set_route(const char *what, const char *name)
{
	char *at = !strcmp(what, "t_on_failure") ? next_failure : !strcmp(what, "t_on_reply") ? next_reply : next_branch;

	if (T && T != OS_T_UNDEFINED)
		at = !strcmp(what, "t_on_failure") ? T->on_failure : !strcmp(what, "t_on_reply") ? T->on_reply : T->on_branch;
	snprintf(at, 64, "%s", name);
}

int tm_append_branch(void)
{
	extra_branches++;
	return 1;
}

/* ---- replies made here ---- */
int tm_reply(os_sip_msg *m, int code, const char *reason, const char *totag)
{
	os_cell *t = T;

	(void)m, (void)reason, (void)totag;
	if (!t || t == OS_T_UNDEFINED) {
		LM_ERR("no transaction found");
		return -1;
	}
	if (t->status >= 200) {
		LM_ERR("failed to generate %d reply when a final %d was sent out", code, t->status);
		return -1;
	}
	t->status = code;
	t->relayed_branch = -2;
	if (code < 200)
		return 1;
	t->completed = true;
	if (t->local) {
		run(&t->cbs, OS_TMCB_LOCAL_COMPLETED, t, NULL, OS_FAKED_REPLY, code);
		return 1;
	}
	run(&t->cbs, OS_TMCB_RESPONSE_PRE_OUT, t, t->req, OS_FAKED_REPLY, code);
	run(&t->cbs, OS_TMCB_MSG_SENT_OUT, t, NULL, OS_FAKED_REPLY, code);
	run(&t->cbs, OS_TMCB_RESPONSE_OUT, t, t->req, OS_FAKED_REPLY, code);
	return 1;
}

/* ---- forwarding ---- */
static int run_kind(int kind, const char *name, os_sip_msg *m)
{
	struct route *r = name[0] ? route_find(kind, name) : NULL;
	int old = current_route, rc;

	if (!r)
		return 1;
	current_route = kind;
	rc = route_run(r, m);
	current_route = old;
	return rc;
}

static void add_branches(os_cell *t, os_sip_msg *m, int count)
{
	for (int i = 0; i < count && t->branches < MAX_BRANCHES; i++) {
		struct branch *b = &t->b[t->branches];
		os_str old = m->new_uri;

		snprintf(b->uri, sizeof b->uri, "sip:branch%d@127.0.0.1", t->branches);
		run_kind(OS_BRANCH_ROUTE, t->on_branch, m);
		m->new_uri = old;
		branch_index = t->branches++;
		m->new_uri = (os_str){b->uri, (int)strlen(b->uri)};
		run(&t->cbs, OS_TMCB_REQUEST_FWDED, t, m, NULL, 0);
		m->new_uri = old;
		branch_index = 0;
		run(&t->cbs, OS_TMCB_REQUEST_BUILT, t, m, NULL, 0);
		run(&t->cbs, OS_TMCB_MSG_SENT_OUT, t, m, NULL, 0);
	}
	t->req->flags = m->flags;
	forwarded = true;
}

int tm_relay(os_sip_msg *m, int extra)
{
	int count = 1 + extra_branches + extra;
	os_cell *t;

	extra_branches = 0;
	if (str_is(m->method, "ACK")) {
		relayed_stateless = true;
		return 1;
	}
	if (current_route == OS_FAILURE_ROUTE) {
		if (!T || T == OS_T_UNDEFINED || T->no_new_branches)
			return -1;
		if (T->was_cancelled) {
			LM_INFO("discarding new branch of a cancelled transaction");
			return -1;
		}
		add_branches(T, m, count);
		return 1;
	}
	if (T && T != OS_T_UNDEFINED) { /* t_newtran() went before */
		t = T;
	} else {
		int rc = tm_newtran(m);
		if (rc <= 0)
			return rc;
		t = T;
	}
	if (str_is(m->method, "CANCEL")) {
		os_cell *inv = cancelled_t ? cancelled_t : match_invite(m);

		if (inv) {
			bool any = false;

			inv->was_cancelled = true;
			for (int i = 0; i < inv->branches; i++) {
				any = any || inv->b[i].replied;
				inv->b[i].to_cancel = true;
			}
			tm_reply(m, 200, "canceling", NULL);
			if (!any && inv->status < 200) { /* nobody has answered yet: it ends here */
				os_cell *old = T;
				T = inv;
				tm_reply(m, 487, "Request Terminated", NULL);
				T = old;
			}
			return 1;
		}
	}
	add_branches(t, m, count);
	return 1;
}

int tm_relay_error(os_sip_msg *m, int code)
{
	if (!T || T == OS_T_UNDEFINED) {
		int rc = tm_newtran(m);
		if (rc <= 0)
			return rc;
	}
	return tm_reply(m, code, reason_text(code), NULL) > 0 ? 0 : -1;
}

/* ---- replies received ---- */
static int priority(const os_cell *t, int code)
{
	if (t->was_cancelled && code == 487)
		return -1;
	return code >= 600 ? 0 : code;
}

static int pick(const os_cell *t)
{
	int best = -1;

	for (int i = 0; i < t->branches; i++) {
		if (t->b[i].last < 200)
			return -2;
		if (best < 0 || priority(t, t->b[i].last) < priority(t, t->b[best].last))
			best = i;
	}
	return best;
}

static void failure(os_cell *t, int picked)
{
	os_sip_msg *faked;
	os_cell *old = T;
	int old_route = current_route;
	char name[64];

	if (!t->req || str_is(t->req->method, "CANCEL"))
		return;
	if (!t->on_failure[0] && !(t->cbs.types & OS_TMCB_ON_FAILURE))
		return;
	faked = msg_private_copy(t->req);
	current_route = OS_FAILURE_ROUTE;
	T = t;
	picked_branch = picked;
	run(&t->cbs, OS_TMCB_ON_FAILURE, t, faked, t->b[picked].reply, t->b[picked].last);
	t->req->flags = faked->flags;
	snprintf(name, sizeof name, "%s", t->on_failure);
	t->on_failure[0] = 0; /* not entered again unless armed again */
	extra_branches = 0;
	run_kind(OS_FAILURE_ROUTE, name, faked);
	t->req->flags = faked->flags;
	picked_branch = -1;
	T = old;
	current_route = old_route;
	msg_free(faked);
}

enum decision { DISCARDED, STORE, COMPLETED, PROVISIONAL, PUSHED };

static enum decision decide(os_cell *t, int code, int branch, bool *store, int *relay, os_sip_msg *rpl)
{
	bool through = code >= 200 && code < 300 && t->invite;
	struct branch *b = &t->b[branch];

	*store = false;
	*relay = -1;
	if (t->status >= 200) {
		if (!through)
			return DISCARDED;
		b->last = code;
		*relay = branch;
		return PUSHED;
	}
	if (b->last >= 200 && !(through && b->last < 300))
		return DISCARDED;
	if (code >= 300) {
		int picked, count;

		b->last = code;
		b->reply = rpl;
		if (code >= 600) {
			for (int i = 0; i < t->branches; i++)
				if (t->b[i].last < 200)
					t->b[i].to_cancel = true;
			picked = branch;
			t->no_new_branches = true;
		} else {
			picked = pick(t);
			if (picked == -2) {
				*store = true;
				b->reply = NULL;
				return STORE;
			}
		}
		count = t->branches;
		forwarded = false;
		failure(t, picked);
		b->reply = NULL;
		if (t->status >= 200) /* the failure route answered */
			return COMPLETED;
		if (count < t->branches && forwarded) {
			*store = true;
			return STORE;
		}
		*relay = picked;
		return COMPLETED;
	}
	b->last = code;
	*relay = code == 100 ? -1 : branch;
	if (code < 200)
		return PROVISIONAL;
	for (int i = 0; i < t->branches; i++)
		if (i != branch && t->b[i].last < 200)
			t->b[i].to_cancel = true;
	return COMPLETED;
}

static void keep(os_cell *t, int branch, os_sip_msg *rpl)
{
	t->b[branch].reply = rpl == OS_FAKED_REPLY ? rpl : msg_clone(rpl);
}

static void relay_reply(os_cell *t, os_sip_msg *rpl, int branch, int code)
{
	bool store;
	int relay, out_code;
	os_sip_msg *out;
	enum decision d = decide(t, code, branch, &store, &relay, rpl);

	if (store)
		keep(t, branch, rpl);
	if (d == COMPLETED)
		t->completed = true;
	if (relay < 0)
		return;
	t->relayed_branch = relay;
	out = relay == branch ? rpl : t->b[relay].reply;
	if (out == OS_FAKED_REPLY) {
		out_code = relay == branch ? code : t->b[relay].last;
	} else {
		run(&t->cbs, OS_TMCB_RESPONSE_FWDED, t, t->req, out, code);
		out_code = out->code;
	}
	t->status = out_code;
	run(&t->cbs, OS_TMCB_RESPONSE_PRE_OUT, t, t->req, out, out_code);
	run(&t->cbs, OS_TMCB_MSG_SENT_OUT, t, NULL, out, out_code);
	run(&t->cbs, OS_TMCB_RESPONSE_OUT, t, t->req, out, out_code);
}

static void local_reply(os_cell *t, os_sip_msg *rpl, int branch, int code)
{
	bool store;
	int winner, out_code;
	os_sip_msg *out;
	enum decision d = decide(t, code, branch, &store, &winner, rpl);

	if (store)
		keep(t, branch, rpl);
	if (d == COMPLETED)
		t->completed = true;
	if (winner < 0)
		return;
	out = winner == branch ? rpl : t->b[winner].reply;
	out_code = out == OS_FAKED_REPLY ? (winner == branch ? code : t->b[winner].last) : out->code;
	t->status = out_code;
	if (out_code < 200)
		run(&t->cbs, OS_TMCB_LOCAL_RESPONSE_OUT, t, NULL, out, out_code);
	else
		run(&t->cbs, OS_TMCB_LOCAL_COMPLETED, t, t->req, out, out_code);
}

int tm_reply_received(os_sip_msg *rpl, const char *tran, int branch)
{
	os_cell *t = tm_find(tran);

	T = OS_T_UNDEFINED;
	if (!t) /* forwarded statelessly */
		return 1;
	if (branch >= t->branches) {
		LM_ERR("transaction %s has no branch %d", tran, branch);
		return -1;
	}
	T = t;
	rpl->parsed |= H_CSEQ;
	if (t->invite && rpl->code >= 300)
		rpl->parsed |= H_TO; /* the ACK was built from it */
	branch_index = branch;
	run(&t->cbs, OS_TMCB_MSG_MATCHED_IN, t, NULL, rpl, rpl->code);
	if (!t->local)
		run(&t->cbs, OS_TMCB_RESPONSE_IN, t, t->req, rpl, rpl->code);
	rpl->flags = t->req ? t->req->flags : 0;
	if (run_kind(OS_ONREPLY_ROUTE, t->on_reply, rpl) < 0 && rpl->code < 200)
		goto done; /* dropped */
	if (t->req)
		t->req->flags = rpl->flags;
	t->b[branch].replied = true;
	if (t->local)
		local_reply(t, rpl, branch, rpl->code);
	else
		relay_reply(t, rpl, branch, rpl->code);
done:
	branch_index = 0;
	T = OS_T_UNDEFINED;
	return 0;
}

/* a final response timer runs out, in the timer process */
void tm_timeout(const char *tran, int branch)
{
	os_cell *t = tm_find(tran);
	void *old;

	if (!t || branch >= t->branches) {
		LM_ERR("no transaction %s with branch %d to time out", tran, branch);
		return;
	}
	old = context_push();
	T = t;
	if (t->local)
		local_reply(t, OS_FAKED_REPLY, branch, 408);
	else
		relay_reply(t, OS_FAKED_REPLY, branch, 408);
	context_pop(old);
	T = OS_T_UNDEFINED;
}

/* ---- requests of our own ---- */
os_cell *tm_local(const char *name, const char *text, int len, os_dlg_cell *dlg, os_transaction_cb *cb, void *param,
                  os_release_tmcb_param *release)
{
	os_cell *t = new_cell(name), *old = T;
	struct route *r = route_find(OS_LOCAL_ROUTE, "local");
	int old_route = current_route;

	t->dialog = dlg;
	run(request_in, OS_TMCB_LOCAL_TRANS_NEW, t, NULL, NULL, 0);
	if (cb)
		insert(&t->cbs, OS_TMCB_LOCAL_COMPLETED, cb, param, release, true);
	t->local = true;
	t->invite = len > 6 && !memcmp(text, "INVITE", 6);
	link_cell(t);
	if (r || t->cbs.types & OS_TMCB_LOCAL_REQUEST_OUT) {
		os_sip_msg *m = msg_parse(text, len);

		T = t;
		current_route = OS_LOCAL_ROUTE;
		if (r)
			route_run(r, m);
		run(&t->cbs, OS_TMCB_LOCAL_REQUEST_OUT, t, m, NULL, 0);
		current_route = old_route;
		T = old;
		t->req = msg_clone(m);
		msg_free(m);
	}
	t->branches = 1;
	return t;
}

/* transactions that have waited long enough are deleted, in the timer process; at the end all, in the attendant */
void tm_reap(bool all)
{
	os_cell **at = &S->trans;

	while (*at) {
		os_cell *t = *at;

		if (!all && !t->completed) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		run(&t->cbs, OS_TMCB_TRANS_DELETED, t, NULL, NULL, 0);
		empty(&t->cbs);
		context_destroy_values(OS_CONTEXT_TRAN, t->ctx);
		if (t->req)
			msg_free(t->req);
		for (int i = 0; i < t->branches; i++)
			if (t->b[i].reply && t->b[i].reply != OS_FAKED_REPLY)
				msg_free(t->b[i].reply);
		shm_drop(K_TRAN, t);
		at = &S->trans; /* callbacks may have changed the list */
	}
}

/* ---- exports ---- */
static int is_local(os_sip_msg *m)
{
	(void)m;
	if (!T || T == OS_T_UNDEFINED) {
		LM_ERR("no transaction found");
		return -1;
	}
	return T->local;
}

os_cell *get_t(void)
{
	return T;
}

int t_ctx_register_ptr(os_context_destroy_fn *f)
{
	return context_register_ptr(OS_CONTEXT_TRAN, f);
}

void t_ctx_put_ptr(os_cell *t, int pos, void *v)
{
	if (!t || t == OS_T_UNDEFINED)
		host_abort("t_ctx_put_ptr() on no transaction");
	context_put_ptr(OS_CONTEXT_TRAN, t->ctx, pos, v);
}

void *t_ctx_get_ptr(os_cell *t, int pos)
{
	if (!t || t == OS_T_UNDEFINED)
		host_abort("t_ctx_get_ptr() on no transaction");
	return context_get_ptr(OS_CONTEXT_TRAN, t->ctx, pos);
}

static void unused(void)
{
	host_abort("a function of tm_binds that this host does not have, or a wrong offset into the table");
}

static void other_put(os_cell *t, int pos, void *v)
{
	(void)t, (void)pos, (void)v;
	host_abort("called a function that is not the one of this name");
}

static int load_tm(os_tm_binds *b)
{
	void (*no)(void) = unused;
	char *table = (char *)b + (odd("tm_table") ? sizeof no : 0);
	os_tm_binds *head = (os_tm_binds *)table;
	os_t_ctx_register_ptr_fn *reg = t_ctx_register_ptr;
	os_t_ctx_put_ptr_fn *put = t_ctx_put_ptr;
	os_t_ctx_get_ptr_fn *get = t_ctx_get_ptr;
	os_get_branch_fn *index = get_branch_index, *picked = t_get_picked_branch;

	for (int at = 0; at < version.t_ctx + 7 * 8; at += 8)
		memcpy(table + at, &no, sizeof no);
	memcpy(b, &no, sizeof no);
	head->register_tmcb = register_tmcb;
	head->t_is_local = is_local;
	head->t_gett = get_t;
	if (odd("tm_names")) /* the function is there, and is another one */
		put = other_put;
	memcpy(table + 192, &picked, sizeof picked);
	memcpy(table + 264, &index, sizeof index);
	memcpy(table + version.t_ctx, &reg, sizeof reg);
	memcpy(table + version.t_ctx + OS_TM_T_CTX_PUT_PTR, &put, sizeof put);
	memcpy(table + version.t_ctx + OS_TM_T_CTX_GET_PTR, &get, sizeof get);
	return 1;
}

static int cmd_load_tm(os_sip_msg *b, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	(void)p1, (void)p2, (void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	return load_tm((os_tm_binds *)b);
}

static int tm_init(void)
{
	request_in = shm_new(K_CALLBACK, sizeof *request_in);
	return 0;
}

static void tm_destroy(void)
{
	tm_reap(true);
	empty(request_in);
	shm_drop(K_CALLBACK, request_in);
}

static const os_cmd_export tm_cmds[] = {{"load_tm", cmd_load_tm, {{0, NULL, NULL}}, 0}, {NULL, NULL, {{0, NULL, NULL}}, 0}};
const os_module_exports tm_exports = {.name = "tm", .type = OS_MOD_TYPE_DEFAULT, .cmds = tm_cmds, .init_f = tm_init, .destroy_f = tm_destroy};
const os_module_exports first_exports = {.name = "proto_udp", .type = OS_MOD_TYPE_DEFAULT};
