/* SPDX-License-Identifier: GPL-2.0-or-later
 * Script variables: the notation, those of the message, $var and $avp, and strings with variables in them. */
#include "host.h"

#include <ctype.h>
#include <time.h>

#define MAX_EXPORTS 128
static os_pv_export exported[MAX_EXPORTS];
static int exports;

static int put_null(os_pv_value *v)
{
	v->rs = (os_str){(char *)"", 0};
	v->ri = 0;
	v->flags = OS_PV_VAL_NULL;
	return 0;
}

static int put_str(os_pv_value *v, os_str s)
{
	if (!s.s)
		return put_null(v);
	v->rs = s;
	v->flags = OS_PV_VAL_STR;
	return 0;
}

static int put_int(os_pv_value *v, int n)
{
	static char buf[4][16];
	static int at;

	at = (at + 1) % 4;
	v->rs.len = snprintf(buf[at], sizeof buf[at], "%d", n);
	v->rs.s = buf[at];
	v->ri = n;
	v->flags = OS_PV_VAL_STR | OS_PV_VAL_INT | OS_PV_TYPE_INT;
	return 0;
}

enum { V_RM, V_RU, V_RUU, V_RD, V_OU, V_FU, V_FUU, V_FD, V_FT, V_TU, V_TUU, V_TD, V_TT, V_CI, V_CS, V_RS, V_RR, V_CL, V_RB, V_MB, V_ML,
       V_UA, V_SI, V_SP, V_RI, V_RP, V_PR, V_TS, V_NULL, V_MI, V_PP, V_CT, V_DU, V_DLG_END };
static const struct { const char *name; int which; unsigned header; } core_var[] = {
	{"rm", V_RM, 0}, {"ru", V_RU, 0}, {"rU", V_RUU, 0}, {"rd", V_RD, 0}, {"ou", V_OU, 0}, {"fu", V_FU, H_FROM}, {"fU", V_FUU, H_FROM},
	{"fd", V_FD, H_FROM}, {"ft", V_FT, H_FROM}, {"tu", V_TU, H_TO}, {"tU", V_TUU, H_TO}, {"td", V_TD, H_TO}, {"tt", V_TT, H_TO},
	{"ci", V_CI, H_CALLID}, {"cs", V_CS, H_CSEQ}, {"rs", V_RS, 0}, {"T_reply_code", V_RS, 0}, {"rr", V_RR, 0}, {"cl", V_CL, H_OTHER},
	{"rb", V_RB, H_OTHER}, {"mb", V_MB, 0}, {"ml", V_ML, 0}, {"ua", V_UA, H_OTHER}, {"si", V_SI, 0}, {"sp", V_SP, 0}, {"Ri", V_RI, 0},
	{"Rp", V_RP, 0}, {"pr", V_PR, 0}, {"proto", V_PR, 0}, {"socket_in", V_RI, 0}, {"Ts", V_TS, 0}, {"null", V_NULL, 0}, {"mi", V_MI, 0},
	{"pp", V_PP, 0}, {"ct", V_CT, H_OTHER}, {"cT", V_CT, H_OTHER}, {"du", V_DU, 0},
	{"DLG_end_reason", V_DLG_END, 0},
};

static int get_core(os_sip_msg *m, os_pv_param *p, os_pv_value *v)
{
	int i = p->pvn.u.isname.name.n;
	char what[32];
	os_str user, domain;

	switch (core_var[i].which) {
	case V_NULL: return put_null(v);
	case V_TS: return put_int(v, (int)time(NULL));
	case V_PP: return put_int(v, process_no);
	case V_DLG_END: return dlg_current() && dlg_current()->lifetime_over ? put_str(v, (os_str){(char *)"Lifetime Timeout", 16}) : put_null(v);
	}
	if (!m)
		return -1;
	snprintf(what, sizeof what, "$%s", core_var[i].name);
	msg_readable(m, what, core_var[i].header | (core_var[i].which == V_RM && !m->request ? H_CSEQ : 0));
	switch (core_var[i].which) {
	case V_RM: return put_str(v, m->request ? m->method : m->cseq_method);
	case V_RU: case V_OU: return m->request ? put_str(v, m->new_uri.s ? m->new_uri : m->ruri) : put_null(v);
	case V_RUU: case V_RD:
		if (!m->request || msg_uri_user(m->ruri, &user, &domain) < 0)
			return put_null(v);
		return put_str(v, core_var[i].which == V_RUU ? user : domain);
	case V_FU: return put_str(v, m->from_uri);
	case V_FUU: case V_FD:
		if (msg_uri_user(m->from_uri, &user, &domain) < 0)
			return put_null(v);
		return put_str(v, core_var[i].which == V_FUU ? user : domain);
	case V_FT: return put_str(v, m->from_tag);
	case V_TU: return put_str(v, m->to_uri);
	case V_TUU: case V_TD:
		if (msg_uri_user(m->to_uri, &user, &domain) < 0)
			return put_null(v);
		return put_str(v, core_var[i].which == V_TUU ? user : domain);
	case V_TT: return put_str(v, m->to_tag);
	case V_CI: return put_str(v, m->callid);
	case V_CS:
		if (!m->cseq_no.s)
			return put_null(v);
		v->rs = m->cseq_no;
		v->ri = atoi(m->cseq_no.s);
		v->flags = OS_PV_VAL_STR;
		return 0;
	case V_RS:
		if (m->request)
			return put_null(v);
		v->rs = m->status;
		v->ri = m->code;
		v->flags = OS_PV_VAL_STR | OS_PV_VAL_INT;
		return 0;
	case V_RR: return m->request ? put_null(v) : put_str(v, m->reason);
	case V_CL:
		if (!m->content_length.s)
			return put_null(v);
		v->rs = m->content_length;
		v->ri = atoi(m->content_length.s);
		v->flags = OS_PV_VAL_STR | OS_PV_VAL_INT;
		return 0;
	case V_RB: return m->body.len > 0 ? put_str(v, m->body) : put_null(v);
	case V_MB: return put_str(v, (os_str){m->buf, m->len});
	case V_ML: return put_int(v, m->len);
	case V_MI: return put_int(v, m->id);
	case V_UA: return put_str(v, m->user_agent);
	case V_CT: return put_str(v, msg_header(m, "Contact", 7));
	case V_SI: case V_RI: return put_str(v, (os_str){(char *)"127.0.0.1", 9});
	case V_SP: return put_int(v, 5070);
	case V_RP: return put_int(v, 5060);
	case V_PR: return put_str(v, (os_str){(char *)"udp", 3});
	}
	return put_null(v);
}

static int get_header(os_sip_msg *m, os_pv_param *p, os_pv_value *v)
{
	os_str n = p->pvn.u.isname.name.s;

	if (!m)
		return -1;
	msg_readable(m, "$hdr", H_OTHER);
	return put_str(v, msg_header(m, n.s, n.len));
}

/* $var(x) lives as long as the process, $avp(x) as long as the message: both per process here */
struct box {
	os_str name;
	os_str text;
	int number, flags;
	struct box *next;
};
static struct box *boxes;

static struct box *box_find(os_str name, bool make)
{
	struct box *b;

	for (b = boxes; b; b = b->next)
		if (str_same(b->name, name))
			return b;
	if (!make)
		return NULL;
	b = calloc(1, sizeof *b);
	b->name = name;
	b->flags = OS_PV_VAL_NULL;
	b->next = boxes;
	return boxes = b;
}

static int get_box(os_sip_msg *m, os_pv_param *p, os_pv_value *v)
{
	struct box *b = box_find(p->pvn.u.isname.name.s, false);

	(void)m;
	if (!b || b->flags & OS_PV_VAL_NULL)
		return put_null(v);
	if (b->flags & OS_PV_VAL_INT)
		return put_int(v, b->number);
	return put_str(v, b->text);
}

static int set_box(os_sip_msg *m, os_pv_param *p, int op, os_pv_value *v)
{
	struct box *b = box_find(p->pvn.u.isname.name.s, true);

	(void)m, (void)op;
	free(b->text.s);
	b->text = (os_str){NULL, 0};
	b->flags = OS_PV_VAL_NULL;
	if (!v || v->flags & OS_PV_VAL_NULL)
		return 0;
	if (v->flags & OS_PV_TYPE_INT || (v->flags & OS_PV_VAL_INT && !(v->flags & OS_PV_VAL_STR))) {
		b->number = v->ri;
		b->flags = OS_PV_VAL_INT;
		return 0;
	}
	b->text.s = malloc((size_t)v->rs.len + 1);
	memcpy(b->text.s, v->rs.s, (size_t)v->rs.len);
	b->text.len = v->rs.len;
	b->flags = OS_PV_VAL_STR;
	return 0;
}

static int get_dlg_val(os_sip_msg *m, os_pv_param *p, os_pv_value *v)
{
	os_dlg_cell *d = dlg_current();
	os_str n = p->pvn.u.isname.name.s;

	(void)m;
	for (struct dlg_val *x = d ? d->vals : NULL; x; x = x->next)
		if (str_same(x->name, n))
			return x->type == OS_DLG_VAL_TYPE_INT ? put_int(v, x->val.n) : put_str(v, x->val.s);
	return put_null(v);
}

static int name_text(os_pv_spec *sp, const os_str *in)
{
	char *copy = malloc((size_t)in->len + 1);

	memcpy(copy, in->s, (size_t)in->len);
	copy[in->len] = 0;
	sp->pvp.pvn.type = OS_PV_NAME_INTSTR;
	sp->pvp.pvn.u.isname.type = 1;
	sp->pvp.pvn.u.isname.name.s = (os_str){copy, in->len};
	return 0;
}

static int index_number(os_pv_spec *sp, const os_str *in)
{
	sp->pvp.pvi.type = OS_PV_IDX_INT;
	sp->pvp.pvi.u.ival = atoi(in->s);
	return 0;
}

static int get_marker(os_sip_msg *m, os_pv_param *p, os_pv_value *v)
{
	(void)m, (void)p;
	*v = (os_pv_value){{(char *)"$", 1}, '$', OS_PV_VAL_STR | OS_PV_VAL_INT};
	return 0;
}

static const os_pv_export host_vars[] = {
	{{"hdr", 3}, 5, get_header, NULL, name_text, index_number, NULL, 0},
	{{"var", 3}, 6, get_box, set_box, name_text, NULL, NULL, 0},
	{{"avp", 3}, 4, get_box, set_box, name_text, NULL, NULL, 0},
	{{"dlg_val", 7}, 1010, get_dlg_val, NULL, name_text, NULL, NULL, 0},
	{{NULL, 0}, 0, NULL, NULL, NULL, NULL, NULL, 0},
};

void pv_register(const os_pv_export *items)
{
	for (; items && items->name.s; items++) {
		if (exports == MAX_EXPORTS)
			host_abort("too many exported variables");
		exported[exports++] = *items;
	}
}

static int valid(int c)
{
	return isalnum(c) || c == '_' || c == '.';
}

/* the whole of one variable; returns the character after it */
char *pv_parse_spec(const os_str *in, os_pv_spec *spec)
{
	char *p = in->s, *end = in->s + in->len, *from;
	const os_pv_export *e = NULL;
	bool paren = false;
	os_str name, inner;

	if (!in->s || in->len < 2 || *p != '$') {
		LM_ERR("bad parameters");
		return NULL;
	}
	memset(spec, 0, (size_t)version.spec_size); /* and not one byte more */
	p++;
	if (*p == '$') {
		spec->type = 1;
		spec->getf = get_marker;
		return p + 1;
	}
	if (*p == '(') {
		paren = true;
		p++;
	}
	for (from = p; p < end && valid((unsigned char)*p); p++)
		;
	name = (os_str){from, (int)(p - from)};
	for (size_t i = 0; i < sizeof core_var / sizeof *core_var; i++) {
		if (str_is(name, core_var[i].name)) {
			spec->type = 11;
			spec->getf = get_core;
			spec->pvp.pvn.u.isname.name.n = (int)i;
			goto found;
		}
	}
	for (const os_pv_export *x = host_vars; x->name.s && !e; x++)
		if (x->name.len == name.len && !memcmp(x->name.s, name.s, (size_t)name.len))
			e = x;
	if (e) {
		spec->type = e->type;
		spec->getf = e->getf;
		spec->setf = e->setf;
		goto found;
	}
	for (int i = 0; i < exports; i++) {
		if (exported[i].name.len == name.len && !memcmp(exported[i].name.s, name.s, (size_t)name.len)) {
			e = &exported[i];
			spec->type = e->type;
			spec->getf = e->getf;
			spec->setf = e->setf;
			goto found;
		}
	}
	LM_ERR("unknown script var $%.*s, maybe a 'loadmodule' statement is missing?", STR_FMT(name));
	return NULL;
found:
	if (p < end && *p == '(') {
		int depth = 0;

		for (from = ++p; p < end; p++) {
			if (*p == ')' && depth-- == 0)
				break;
			if (*p == '(')
				depth++;
		}
		if (p >= end)
			goto bad;
		inner = (os_str){from, (int)(p - from)};
		if (!inner.len || !e || !e->parse_name || e->parse_name(spec, &inner) != 0) {
			LM_ERR("pvar \"%.*s\" has an invalid name param [%.*s]", STR_FMT(name), STR_FMT(inner));
			goto bad;
		}
		p++;
	}
	if (paren && p < end && *p == '[') {
		for (from = ++p; p < end && *p != ']'; p++)
			;
		if (p >= end)
			goto bad;
		inner = (os_str){from, (int)(p - from)};
		if (!inner.len || !e || !e->parse_index || e->parse_index(spec, &inner) != 0) {
			LM_ERR("pvar \"%.*s\" has an invalid index param [%.*s]", STR_FMT(name), STR_FMT(inner));
			goto bad;
		}
		p++;
	}
	if (paren) {
		if (p >= end || *p != ')')
			goto bad;
		p++;
	}
	if (e && e->init_param)
		e->init_param(spec, e->iparam);
	if (odd("variables")) /* one more number before the parameter */
		memmove((char *)&spec->pvp + sizeof(long), &spec->pvp, sizeof spec->pvp);
	return p;
bad:
	LM_ERR("wrong variable [%.*s]", STR_FMT(*in));
	return NULL;
}

int pv_get_spec_value(os_sip_msg *m, os_pv_spec *spec, os_pv_value *v)
{
	if (!m || !spec || !spec->getf || !v || !spec->type) {
		LM_ERR("bad parameters");
		return -1;
	}
	memset(v, 0, sizeof *v);
	if (spec->getf(m, &spec->pvp, v) != 0)
		return put_null(v);
	if (odd("values")) { /* numbers of eight bytes, as Kamailio has since 5.7 */
		int flags = v->flags;

		v->flags = 0;
		(&v->flags)[1] = flags;
	}
	return 0;
}

struct format *format_parse(const char *text, int len)
{
	struct format *first = NULL, **last = &first;
	const char *p = text, *end = text + len;

	do {
		struct format *f = calloc(1, sizeof *f);
		const char *from = p;

		while (p < end && *p != '$')
			p++;
		f->text = (os_str){(char *)from, (int)(p - from)};
		*last = f;
		last = &f->next;
		if (p < end) {
			os_str in = {(char *)p, (int)(end - p)};
			f->spec = calloc(1, sizeof *f->spec);
			p = pv_parse_spec(&in, f->spec);
			if (!p)
				return NULL;
		}
	} while (p < end);
	return first;
}

bool format_is_plain(const struct format *f)
{
	return !f->next && !f->spec;
}

char *format_print(os_sip_msg *m, const struct format *f, int *len)
{
	char *out = malloc(1);
	size_t n = 0;

	for (; f; f = f->next) {
		os_pv_value v = {0};
		os_str s = {NULL, 0};
		char num[16];

		if (f->spec) {
			if (pv_get_spec_value(m, f->spec, &v) != 0) {
				free(out);
				return NULL;
			}
			if (v.flags & OS_PV_VAL_NULL)
				s = (os_str){(char *)"<null>", 6};
			else if (v.flags & OS_PV_VAL_STR)
				s = v.rs;
			else
				s = (os_str){num, snprintf(num, sizeof num, "%d", v.ri)};
		}
		out = realloc(out, n + (size_t)f->text.len + (size_t)s.len + 1);
		memcpy(out + n, f->text.s, (size_t)f->text.len);
		n += (size_t)f->text.len;
		if (s.len)
			memcpy(out + n, s.s, (size_t)s.len);
		n += (size_t)s.len;
	}
	out[n] = 0;
	*len = (int)n;
	return out;
}
