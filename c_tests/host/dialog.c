/* SPDX-License-Identifier: GPL-2.0-or-later
 * A dialog module and the little of rr that goes with it: states, callbacks, values, contexts, and a "database" that
 * outlives the server. */
#include "host.h"

#include <strings.h>

static int current_pos = -1; /* the dialog in the processing context */
static struct dlg_cb *created_cbs, *loaded_cbs;
static int direction;
static bool destroyed;

/* ---- references ---- */
static void destroy(os_dlg_cell *d)
{
	struct dlg_cb *cb, *next;
	os_dlg_cell **at;
	os_dlg_cb_params p = {NULL, OS_DLG_DIR_NONE, -1, 1, NULL, NULL};

	for (at = &S->dialogs; *at && *at != d; at = &(*at)->next)
		;
	if (*at)
		*at = d->next;
	if (!destroyed && d->cb_types & OS_DLGCB_DESTROY)
		for (cb = d->cbs; cb; cb = cb->next)
			if (cb->types & OS_DLGCB_DESTROY) {
				p.param = &cb->param;
				cb->f(d, OS_DLGCB_DESTROY, &p);
			}
	for (cb = d->cbs; cb; cb = next) {
		next = cb->next;
		if (cb->release && cb->param)
			cb->release(cb->param);
		shm_drop(K_CALLBACK, cb);
	}
	context_destroy_values(OS_CONTEXT_DIALOG, d->ctx);
	for (struct dlg_val *v = d->vals, *n; v; v = n) {
		n = v->next;
		shm_drop(K_VALUE, v);
	}
	shm_drop(K_VALUE, d->callid);
	shm_drop(K_VALUE, d->ftag);
	if (d->ttag)
		shm_drop(K_VALUE, d->ttag);
	shm_drop(K_DIALOG, d);
}

void _ref_dlg(os_dlg_cell *d, unsigned n)
{
	d->ref += (int)n;
}

void dlg_unref_cell(os_dlg_cell *d, int n)
{
	d->ref -= n;
	if (d->ref < 0)
		host_abort("dialog %s: %d references", d->name, d->ref);
	if (d->ref == 0)
		destroy(d);
}

static void unref(os_dlg_cell *d, unsigned n)
{
	dlg_unref_cell(d, (int)n);
}

static void release_dialog(void *p)
{
	if (!destroyed)
		dlg_unref_cell(p, 1);
}

static char *keep(os_str s)
{
	char *p = shm_new(K_VALUE, (size_t)s.len + 1);

	if (s.len)
		memcpy(p, s.s, (size_t)s.len);
	return p;
}

/* ---- which one ---- */
static os_dlg_cell *in_context(void)
{
	return current_processing_ctx && current_pos >= 0 ? context_get_ptr(OS_CONTEXT_GLOBAL, current_processing_ctx, current_pos) : NULL;
}

static void set_context(os_dlg_cell *d)
{
	context_put_ptr(OS_CONTEXT_GLOBAL, current_processing_ctx, current_pos, d);
}

os_dlg_cell *dlg_current(void)
{
	os_dlg_cell *d = in_context();

	if (d)
		return d;
	if (!T || T == OS_T_UNDEFINED)
		return NULL;
	if (current_processing_ctx && T->dialog) {
		_ref_dlg(T->dialog, 1);
		set_context(T->dialog);
	}
	return T->dialog;
}

void dlg_cleanup(void)
{
	os_dlg_cell *d = in_context();

	if (d) {
		set_context(NULL);
		dlg_unref_cell(d, 1);
	}
}

static os_dlg_cell *find(const char *name)
{
	for (os_dlg_cell *d = S->dialogs; d; d = d->next)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

/* ---- callbacks ---- */
static struct dlg_cb *add_cb(struct dlg_cb **list, int types, os_dialog_cb *f, void *param, os_param_free_cb *release)
{
	struct dlg_cb *cb = shm_new(K_CALLBACK, sizeof *cb);

	*cb = (struct dlg_cb){types, f, param, release, *list};
	*list = cb;
	return cb;
}

/* what was passed before 3.4.7, and something behind it */
struct moved_params {
	os_sip_msg *msg;
	unsigned direction, is_active;
	void *dlg_data;
	void **param;
	void *more;
};

static void run(int type, os_dlg_cell *d, os_sip_msg *m, unsigned dir, int leg, void *data)
{
	os_dlg_cb_params p = {m, dir, leg, 1, data, NULL};

	if (!(d->cb_types & type))
		return;
	for (struct dlg_cb *cb = d->cbs; cb; cb = cb->next) {
		if (cb->types & type) {
			struct moved_params moved = {m, dir, 1, data, &cb->param, d};

			p.param = &cb->param;
			cb->f(d, type, odd("dialog_params") ? (os_dlg_cb_params *)&moved : &p);
		}
	}
}

static void run_created(os_dlg_cell *d, os_sip_msg *m)
{
	os_dlg_cb_params p = {m, OS_DLG_DIR_DOWNSTREAM, 0, 0, NULL, NULL};

	for (struct dlg_cb *cb = created_cbs; cb; cb = cb->next) {
		p.param = &cb->param;
		cb->f(d, OS_DLGCB_CREATED, &p);
	}
}

static void run_loaded(os_dlg_cell *d, struct dlg_cb *cb)
{
	os_dlg_cb_params p = {NULL, OS_DLG_DIR_NONE, 0, 0, NULL, &cb->param};

	cb->f(d, OS_DLGCB_LOADED, &p);
}

int register_dlgcb(os_dlg_cell *d, int types, os_dialog_cb *f, void *param, os_param_free_cb *release)
{
	if ((types & OS_DLGCB_LOADED && types != OS_DLGCB_LOADED) || (types & OS_DLGCB_CREATED && types != OS_DLGCB_CREATED)) {
		host_log(OS_L_CRIT, "DLGCB_LOADED and DLGCB_CREATED must be registered alone!");
		return -1;
	}
	if (types == OS_DLGCB_CREATED) {
		add_cb(&created_cbs, types, f, param, release);
		return 0;
	}
	if (types == OS_DLGCB_LOADED) {
		struct dlg_cb *cb = add_cb(&loaded_cbs, types, f, param, release);
		for (os_dlg_cell *x = S->dialogs, *next; x; x = next) {
			next = x->next;
			run_loaded(x, cb);
		}
		return 0;
	}
	if (!d) {
		host_log(OS_L_CRIT, "non-DLGCB_CREATED type must be register to a dialog (dlg missing)!");
		return -1;
	}
	if (d->state == D_DELETED) {
		LM_WARN("Cannot register callbacks in DELETED state (type %x)!", (unsigned)types);
		return -1;
	}
	add_cb(&d->cbs, types, f, param, release);
	d->cb_types |= types;
	return 0;
}

/* ---- life ---- */
enum event { E_TDEL, E_1XX, E_2XX, E_3XX, E_REQ, E_ACK, E_BYE };

static void next_state(os_dlg_cell *d, enum event e, int *old, int *unrefs)
{
	*old = d->state;
	*unrefs = 0;
	switch (e) {
	case E_TDEL:
		if (d->state <= D_EARLY) {
			d->state = D_DELETED;
			d->ref--; /* the callback's; the table's follows */
			*unrefs = 1;
		} else {
			*unrefs = 1;
		}
		break;
	case E_1XX:
		if (d->state == D_UNCONFIRMED)
			d->state = D_EARLY;
		break;
	case E_2XX:
		if (d->state == D_DELETED && !d->has_bye) {
			_ref_dlg(d, 1);
			d->state = D_CONFIRMED_NA;
		} else if (d->state <= D_EARLY) {
			d->state = D_CONFIRMED_NA;
		}
		break;
	case E_3XX:
		if (d->state <= D_EARLY) {
			d->state = D_DELETED;
			*unrefs = 1;
		}
		break;
	case E_ACK:
		if (d->state == D_CONFIRMED_NA)
			d->state = D_CONFIRMED;
		break;
	case E_BYE:
		if (d->state == D_CONFIRMED_NA || d->state == D_CONFIRMED) {
			d->has_bye = true;
			d->state = D_DELETED;
			*unrefs = 1;
		} else if (d->state <= D_EARLY) {
			d->has_bye = true;
		}
		break;
	case E_REQ:
		break;
	}
}

static void on_reply(os_cell *t, int type, os_tmcb_params *p)
{
	os_dlg_cell *d = *p->param;
	int old, unrefs;

	if (!d || destroyed)
		return;
	if (type == OS_TMCB_RESPONSE_FWDED) {
		os_sip_msg *rpl = p->rpl;
		if (rpl != OS_FAKED_REPLY && rpl->to_tag.len && (!d->ttag || rpl->code >= 200)) {
			if (d->ttag)
				shm_drop(K_VALUE, d->ttag);
			d->ttag = keep(rpl->to_tag);
			d->legs = 2;
		}
		run(OS_DLGCB_RESPONSE_FWDED, d, rpl, OS_DLG_DIR_UPSTREAM, 0, NULL);
		return;
	}
	if (type == OS_TMCB_TRANS_CANCELLED) {
		d->cancelled = true;
		if (current_processing_ctx && !in_context()) {
			_ref_dlg(d, 1);
			set_context(t->dialog);
		}
		return;
	}
	next_state(d, type == OS_TMCB_TRANS_DELETED ? E_TDEL : p->code < 200 ? E_1XX : p->code < 300 ? E_2XX : E_3XX, &old, &unrefs);
	if (d->state == D_EARLY && old != D_EARLY) {
		run(OS_DLGCB_EARLY, d, p->rpl, OS_DLG_DIR_UPSTREAM, 0, NULL);
		return;
	}
	if (d->state == D_CONFIRMED_NA && old != D_CONFIRMED_NA && old != D_CONFIRMED) {
		d->in_timer = true;
		_ref_dlg(d, 1);
		run(OS_DLGCB_CONFIRMED, d, p->rpl, OS_DLG_DIR_UPSTREAM, 0, NULL);
		return;
	}
	if (old != D_DELETED && d->state == D_DELETED)
		run(OS_DLGCB_FAILED, d, p->rpl, OS_DLG_DIR_UPSTREAM, 0, NULL);
	if (unrefs)
		dlg_unref_cell(d, unrefs);
}

/* the transaction goes: the reference that its reply callbacks held goes too */
static void release_create(void *p)
{
	os_dlg_cell *d = p;
	int old, unrefs;

	if (destroyed)
		return;
	next_state(d, E_TDEL, &old, &unrefs);
	if (old != D_DELETED && d->state == D_DELETED)
		run(OS_DLGCB_FAILED, d, NULL, OS_DLG_DIR_UPSTREAM, 0, NULL);
	dlg_unref_cell(d, unrefs);
}

static void on_deleted(os_cell *t, int type, os_tmcb_params *p)
{
	(void)t, (void)type;
	release_dialog(*p->param);
}

static void attach(os_dlg_cell *d, os_cell *t)
{
	if (t->dialog)
		return;
	tm_register(NULL, t, OS_TMCB_TRANS_DELETED, on_deleted, d, NULL);
	t->dialog = d;
	_ref_dlg(d, 1);
}

static void on_request(os_cell *t, int type, os_tmcb_params *p)
{
	os_dlg_cell *d = in_context();

	(void)type;
	if (!d)
		return;
	if (d->init) {
		attach(d, t);
		return;
	}
	run_created(d, p->req);
	t->dialog = d;
	d->init = true;
}

int dlg_create(os_sip_msg *m, bool bye_on_timeout)
{
	os_cell *t = T && T != OS_T_UNDEFINED ? T : NULL;
	os_dlg_cell *d;

	if (!str_is(m->method, "INVITE") || m->to_tag.len)
		return -1;
	d = dlg_current();
	if (d) {
		if (bye_on_timeout)
			d->bye_on_timeout = true;
		return 1;
	}
	if (!m->callid.len || !m->from_tag.len) {
		LM_ERR("invalid request -> callid (%d) or from TAG (%d) empty", m->callid.len, m->from_tag.len);
		return -1;
	}
	if (settings.dialog_full) {
		LM_ERR("no more shm memory for a dialog");
		return -1;
	}
	d = shm_new(K_DIALOG, sizeof *d);
	if (context_sizes[OS_CONTEXT_DIALOG] > sizeof d->ctx)
		host_abort("the dialog context is too small");
	snprintf(d->name, sizeof d->name, "%s", request_name);
	d->callid = keep(m->callid);
	d->ftag = keep(m->from_tag);
	d->state = D_UNCONFIRMED;
	d->legs = 1;
	d->bye_on_timeout = bye_on_timeout;
	d->next = S->dialogs;
	S->dialogs = d;
	d->ref = 3; /* the table, the reply callbacks, the processing context */
	set_context(d);
	tm_register(m, t, OS_TMCB_RESPONSE_PRE_OUT | OS_TMCB_RESPONSE_FWDED | OS_TMCB_TRANS_CANCELLED, on_reply, d, release_create);
	if (t) {
		run_created(d, m);
		t->dialog = d;
		d->init = true;
	}
	return 1;
}

/* a request inside of a dialog, found by loose_route() */
int dlg_match(os_sip_msg *m)
{
	os_dlg_cell *d;
	enum event e = str_is(m->method, "BYE") ? E_BYE : str_is(m->method, "ACK") ? E_ACK : E_REQ;
	int old, unrefs;

	if (in_context()) /* matched before */
		return 1;
	for (d = S->dialogs; d; d = d->next) {
		if (!d->ttag || !str_is(m->callid, d->callid))
			continue;
		if (str_is(m->from_tag, d->ftag) && str_is(m->to_tag, d->ttag)) {
			direction = OS_DLG_DIR_DOWNSTREAM;
			break;
		}
		if (str_is(m->from_tag, d->ttag) && str_is(m->to_tag, d->ftag)) {
			direction = OS_DLG_DIR_UPSTREAM;
			break;
		}
	}
	if (!d) {
		direction = OS_DLG_DIR_NONE;
		return -1;
	}
	next_state(d, e, &old, &unrefs);
	_ref_dlg(d, 1);
	set_context(d);
	if (T && T != OS_T_UNDEFINED)
		attach(d, T);
	if (old == D_DELETED && d->state == D_DELETED) {
		run(OS_DLGCB_REQ_WITHIN, d, m, (unsigned)direction, direction == OS_DLG_DIR_UPSTREAM ? 0 : 1, NULL);
		return 1;
	}
	if (e == E_BYE && d->state == D_DELETED) {
		if (d->in_timer) {
			d->in_timer = false;
			unrefs++;
		}
		run(OS_DLGCB_TERMINATED, d, m, (unsigned)direction, direction == OS_DLG_DIR_UPSTREAM ? 0 : 1, NULL);
		dlg_unref_cell(d, unrefs);
		return 1;
	}
	run(OS_DLGCB_REQ_WITHIN, d, m, (unsigned)direction, direction == OS_DLG_DIR_UPSTREAM ? 0 : 1, NULL);
	return 1;
}

static void *begin_outside(os_dlg_cell *d, os_sip_msg **m)
{
	void *old = context_push();

	if (m)
		*m = get_dummy_sip_msg();
	set_context(d);
	_ref_dlg(d, 1);
	return old;
}

/* the end by two BYEs of ours: the first final reply ends the dialog, the second frees it */
static void dual_bye(os_dlg_cell *d, os_sip_msg *req)
{
	int old, unrefs;

	next_state(d, E_BYE, &old, &unrefs);
	if (old != D_DELETED && d->state == D_DELETED) {
		if (d->in_timer) {
			d->in_timer = false;
			unrefs++;
		}
		if (!req) {
			os_sip_msg *m;
			void *outer = begin_outside(d, &m);
			run(OS_DLGCB_TERMINATED, d, m, OS_DLG_DIR_NONE, -1, NULL);
			context_pop(outer);
			msg_free(m);
		} else {
			run(OS_DLGCB_TERMINATED, d, req, OS_DLG_DIR_NONE, -1, NULL);
		}
	}
	if (unrefs)
		dlg_unref_cell(d, unrefs);
}

static void bye_reply(os_cell *t, int type, os_tmcb_params *p)
{
	(void)type;
	if (destroyed || p->code < 200)
		return;
	t->dialog = *p->param;
	dual_bye(*p->param, p->req);
}

static void send_bye(os_dlg_cell *d, int n)
{
	char text[2048], name[96];
	int len;
	void *old = begin_outside(d, NULL);

	snprintf(name, sizeof name, "%s.bye%d", d->name, n);
	len = snprintf(text, sizeof text,
	               "BYE sip:leg%d@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKbye%d%s\r\nFrom: <sip:us@host>;tag=%s\r\n"
	               "To: <sip:them@host>;tag=%s\r\nCall-ID: %s\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n",
	               n, n, d->name, n == 1 ? (d->ttag ? d->ttag : "") : d->ftag, n == 1 ? d->ftag : (d->ttag ? d->ttag : ""), d->callid);
	_ref_dlg(d, 1);
	tm_local(name, text, len, NULL, bye_reply, d, release_dialog);
	context_pop(old);
}

void dlg_end(const char *name)
{
	os_dlg_cell *d = find(name);

	if (!d) {
		LM_ERR("no dialog %s to end", name);
		return;
	}
	_ref_dlg(d, 1);
	send_bye(d, 1);
	send_bye(d, 2);
	dlg_unref_cell(d, 1);
}

void dlg_timeout(const char *name)
{
	os_dlg_cell *d = find(name);
	int old, unrefs;

	if (!d) {
		LM_ERR("no dialog %s to expire", name);
		return;
	}
	T = OS_T_UNDEFINED;
	d->in_timer = false; /* its reference goes below */
	if (d->bye_on_timeout && (d->state == D_CONFIRMED_NA || d->state == D_CONFIRMED)) {
		d->lifetime_over = true;
		send_bye(d, 1);
		send_bye(d, 2);
		dlg_unref_cell(d, 1);
		return;
	}
	next_state(d, E_BYE, &old, &unrefs);
	if (d->state == D_DELETED && old != D_DELETED) {
		os_sip_msg *m;
		void *outer = begin_outside(d, &m);
		run(OS_DLGCB_EXPIRED, d, m, OS_DLG_DIR_NONE, -1, NULL);
		context_pop(outer);
		msg_free(m);
	}
	dlg_unref_cell(d, unrefs + 1);
}

/* ---- values ---- */
int store_dlg_value(os_dlg_cell *d, os_str *name, os_int_str *val, int type)
{
	struct dlg_val **at, *v = NULL;

	for (at = &d->vals; *at; at = &(*at)->next)
		if (str_same((*at)->name, *name))
			break;
	if (*at) {
		struct dlg_val *old = *at;
		*at = old->next;
		shm_drop(K_VALUE, old);
	}
	if (!val)
		return 0;
	v = shm_new(K_VALUE, sizeof *v + (size_t)name->len + (type == OS_DLG_VAL_TYPE_STR ? (size_t)val->s.len : 0));
	v->name = (os_str){(char *)(v + 1), name->len};
	memcpy(v->name.s, name->s, (size_t)name->len);
	v->type = type;
	if (type == OS_DLG_VAL_TYPE_STR) {
		v->val.s = (os_str){v->name.s + name->len, val->s.len};
		if (val->s.len)
			memcpy(v->val.s.s, val->s.s, (size_t)val->s.len);
	} else {
		v->val.n = val->n;
	}
	v->next = d->vals;
	d->vals = v;
	return 0;
}

int fetch_dlg_value(os_dlg_cell *d, const os_str *name, int *type, os_int_str *out, int has_buf)
{
	static char *buf;
	static int room;

	for (struct dlg_val *v = d->vals; v; v = v->next) {
		if (!str_same(v->name, *name))
			continue;
		*type = v->type;
		if (v->type != OS_DLG_VAL_TYPE_STR) {
			out->n = v->val.n;
			return 0;
		}
		if (has_buf && out->s.len < v->val.s.len) {
			if (out->s.s)
				host_abort("fetch_dlg_value(%.*s): %d bytes do not fit into %d; the real server would pkg_realloc() that buffer",
				           STR_FMT(*name), v->val.s.len, out->s.len);
			out->s.s = malloc((size_t)v->val.s.len);
		}
		if (!has_buf) {
			if (room < v->val.s.len) {
				buf = realloc(buf, (size_t)v->val.s.len);
				room = v->val.s.len;
			}
			out->s.s = buf;
		}
		if (v->val.s.len)
			memcpy(out->s.s, v->val.s.s, (size_t)v->val.s.len);
		out->s.len = v->val.s.len;
		return 0;
	}
	return -2;
}

/* a value comes from outside: another node (with the callback) or a test */
int dlg_set(const char *name, const char *value, os_str text, bool replicated)
{
	os_dlg_cell *d = find(name);
	os_str n = {(char *)value, (int)strlen(value)};
	os_int_str v;

	if (!d)
		return -1;
	v.s = text;
	store_dlg_value(d, &n, &v, OS_DLG_VAL_TYPE_STR);
	if (replicated)
		run(OS_DLGCB_PROCESS_VARS, d, NULL, OS_DLG_DIR_NONE, -1, &n);
	return 0;
}

static struct dlg_val *value_of(const char *name, const char *value)
{
	os_dlg_cell *d = find(name);
	os_str n = {(char *)value, (int)strlen(value)};

	for (struct dlg_val *v = d ? d->vals : NULL; v; v = v->next)
		if (str_same(v->name, n))
			return v;
	return NULL;
}

static os_str kept;

int dlg_keep(const char *name, const char *value)
{
	struct dlg_val *v = value_of(name, value);

	if (!v)
		return -1;
	kept.len = v->val.s.len;
	kept.s = realloc(kept.s, (size_t)kept.len + 1);
	memcpy(kept.s, v->val.s.s, (size_t)kept.len);
	return 0;
}

/* another node sends what it still has */
int dlg_replay(const char *name, const char *value)
{
	return kept.s ? dlg_set(name, value, kept, true) : -1;
}

bool dlg_has(const char *name, const char *value, os_str text)
{
	struct dlg_val *v = value_of(name, value);

	return v && memmem(v->val.s.s, (size_t)v->val.s.len, text.s, (size_t)text.len);
}

/* ---- the database ---- */
void dlg_save_all(bool on_shutdown)
{
	(void)on_shutdown;
	S->saved_no = 0;
	for (os_dlg_cell *d = S->dialogs; d; d = d->next) {
		struct saved_dialog *s;

		if (d->state != D_CONFIRMED_NA && d->state != D_CONFIRMED)
			continue;
		run(OS_DLGCB_WRITE_VP, d, NULL, OS_DLG_DIR_NONE, -1, NULL);
		if (S->saved_no == MAX_SAVED)
			break;
		s = &S->saved[S->saved_no++];
		memset(s, 0, sizeof *s);
		snprintf(s->name, sizeof s->name, "%s", d->name);
		snprintf(s->callid, sizeof s->callid, "%s", d->callid);
		snprintf(s->ftag, sizeof s->ftag, "%s", d->ftag);
		snprintf(s->ttag, sizeof s->ttag, "%s", d->ttag ? d->ttag : "");
		s->state = d->state;
		s->bye_on_timeout = d->bye_on_timeout;
		for (struct dlg_val *v = d->vals; v; v = v->next) {
			struct saved_value *x = &s->value[s->values];

			if (s->values == (int)(sizeof s->value / sizeof s->value[0]) || v->name.len >= (int)sizeof x->name ||
			    (v->type == OS_DLG_VAL_TYPE_STR && v->val.s.len > (int)sizeof x->data))
				host_abort("dialog value %.*s does not fit into the test host's database", STR_FMT(v->name));
			snprintf(x->name, sizeof x->name, "%.*s", STR_FMT(v->name));
			x->type = v->type;
			if (v->type == OS_DLG_VAL_TYPE_STR) {
				x->len = v->val.s.len;
				if (x->len)
					memcpy(x->data, v->val.s.s, (size_t)x->len);
			} else {
				x->n = v->val.n;
			}
			s->values++;
		}
	}
}

static void load_all(void)
{
	for (int i = 0; i < S->saved_no; i++) {
		struct saved_dialog *s = &S->saved[i];
		os_dlg_cell *d = shm_new(K_DIALOG, sizeof *d);

		snprintf(d->name, sizeof d->name, "%s", s->name);
		d->callid = keep((os_str){s->callid, (int)strlen(s->callid)});
		d->ftag = keep((os_str){s->ftag, (int)strlen(s->ftag)});
		d->ttag = keep((os_str){s->ttag, (int)strlen(s->ttag)});
		d->state = s->state;
		d->bye_on_timeout = s->bye_on_timeout;
		d->legs = 2;
		d->init = true;
		d->in_timer = true;
		d->ref = 2; /* the table and the timer */
		d->next = S->dialogs;
		S->dialogs = d;
		for (int k = 0; k < s->values; k++) {
			os_str n = {s->value[k].name, (int)strlen(s->value[k].name)};
			os_int_str v;

			if (s->value[k].type == OS_DLG_VAL_TYPE_STR)
				v.s = (os_str){s->value[k].data, s->value[k].len};
			else
				v.n = s->value[k].n;
			store_dlg_value(d, &n, &v, s->value[k].type);
		}
		for (struct dlg_cb *cb = loaded_cbs; cb; cb = cb->next)
			run_loaded(d, cb);
	}
}

/* ---- exports ---- */
static int api_create(os_sip_msg *m, int flags)
{
	(void)flags;
	return dlg_create(m, false);
}

os_dlg_cell *get_current_dialog(void)
{
	return dlg_current();
}

int get_dlg_direction(void)
{
	return direction;
}

os_str *dlg_get_did(os_dlg_cell *d)
{
	static os_str did;

	did = (os_str){d->name, (int)strlen(d->name)};
	return &did;
}

os_dlg_cell *get_dlg_by_did(os_str *did, int active_only)
{
	for (os_dlg_cell *d = S->dialogs; d; d = d->next)
		if (strlen(d->name) == (size_t)did->len && !memcmp(d->name, did->s, (size_t)did->len) && !(active_only && d->state > D_CONFIRMED)) {
			_ref_dlg(d, 1);
			return d;
		}
	return NULL;
}

int dlg_ctx_register_ptr(os_context_destroy_fn *f)
{
	return context_register_ptr(OS_CONTEXT_DIALOG, f);
}

void dlg_ctx_put_ptr(os_dlg_cell *d, int pos, void *v)
{
	context_put_ptr(OS_CONTEXT_DIALOG, d->ctx, pos, v);
}

void *dlg_ctx_get_ptr(os_dlg_cell *d, int pos)
{
	return context_get_ptr(OS_CONTEXT_DIALOG, d->ctx, pos);
}

static void unused(void)
{
	host_abort("a function of dlg_binds or rr_binds that this host does not have, or a wrong offset into the table");
}

static void fill(void *table, size_t size)
{
	void (*no)(void) = unused;

	for (size_t at = 0; at + sizeof no <= size; at += sizeof no)
		memcpy((char *)table + at, &no, sizeof no);
}

static int cmd_load_dlg(os_sip_msg *table, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	os_dlg_binds *b = (os_dlg_binds *)table;

	(void)p1, (void)p2, (void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	fill(b, sizeof *b);
	b->register_dlgcb = register_dlgcb;
	b->create_dlg = api_create;
	b->get_dlg = get_current_dialog;
	b->store_dlg_value = store_dlg_value;
	b->fetch_dlg_value = fetch_dlg_value;
	b->dlg_ref = _ref_dlg;
	b->dlg_unref = unref;
	b->get_direction = get_dlg_direction;
	b->get_dlg_did = dlg_get_did;
	b->get_dlg_by_did = get_dlg_by_did;
	b->dlg_ctx_register_ptr = dlg_ctx_register_ptr;
	b->dlg_ctx_put_ptr = dlg_ctx_put_ptr;
	b->dlg_ctx_get_ptr = dlg_ctx_get_ptr;
	if (odd("dialog_table")) /* one more function, where ours is found by its neighbours */
		memmove((char *)b + sizeof *b->others1, b, sizeof *b), b->register_dlgcb = register_dlgcb;
	return 1;
}

static void context_dialog_gone(void *d)
{
	if (!destroyed)
		dlg_unref_cell(d, 1);
}

static int dialog_init(void)
{
	tm_register(NULL, NULL, OS_TMCB_REQUEST_IN, on_request, NULL, NULL);
	current_pos = context_register_ptr(OS_CONTEXT_GLOBAL, context_dialog_gone);
	load_all();
	return 0;
}

static void dialog_destroy(void)
{
	dlg_save_all(true);
	destroyed = true;
	while (S->dialogs)
		destroy(S->dialogs);
	for (struct dlg_cb *cb = created_cbs, *n; cb; cb = n) {
		n = cb->next;
		shm_drop(K_CALLBACK, cb);
	}
	for (struct dlg_cb *cb = loaded_cbs, *n; cb; cb = n) {
		n = cb->next;
		shm_drop(K_CALLBACK, cb);
	}
}

static const os_dep_export dialog_deps = {
	{{OS_MOD_TYPE_DEFAULT, (char *)"tm", OS_DEP_ABORT}, {OS_MOD_TYPE_DEFAULT, (char *)"rr", OS_DEP_SILENT}, {0, NULL, 0}}, {{NULL, NULL}}};
static const os_cmd_export dialog_cmds[] = {{"load_dlg", cmd_load_dlg, {{0, NULL, NULL}}, 0}, {NULL, NULL, {{0, NULL, NULL}}, 0}};
const os_module_exports dialog_exports = {
	.name = "dialog", .type = OS_MOD_TYPE_DEFAULT, .deps = &dialog_deps, .cmds = dialog_cmds, .init_f = dialog_init, .destroy_f = dialog_destroy};

/* ---- rr ---- */
int append_fromtag;

int is_direction(os_sip_msg *m, int dir)
{
	/* by the tag in the Route, as append_fromtag leaves it: 0 = yes, -1 = no */
	os_str route, tag;
	char *at;
	bool up;

	msg_readable(m, "Route", H_FROM | H_OTHER);
	route = msg_header(m, "Route", 5);
	at = route.s ? memmem(route.s, (size_t)route.len, ";ftag=", 6) : NULL;
	if (!at)
		return dir == OS_RR_FLOW_DOWNSTREAM ? 0 : -1;
	at += 6;
	tag.s = at;
	while (at < route.s + route.len && *at != ';' && *at != '>')
		at++;
	tag.len = (int)(at - tag.s);
	up = !str_same(tag, m->from_tag);
	return up == (dir == OS_RR_FLOW_UPSTREAM) ? 0 : -1;
}

static int cmd_load_rr(os_sip_msg *table, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	os_rr_binds *b = (os_rr_binds *)table;

	(void)p1, (void)p2, (void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	fill(b, sizeof *b);
	b->is_direction = is_direction;
	b->append_fromtag = append_fromtag = settings.append_fromtag;
	return 1;
}

static const os_cmd_export rr_cmds[] = {{"load_rr", cmd_load_rr, {{0, NULL, NULL}}, 0}, {NULL, NULL, {{0, NULL, NULL}}, 0}};
const os_module_exports rr_exports = {.name = "rr", .type = OS_MOD_TYPE_DEFAULT, .cmds = rr_cmds};
