/* SPDX-License-Identifier: GPL-2.0-or-later
 * SIP messages: a small parser over the text, private and shared copies, and the guard that stands in for the real
 * server's lazy parsing: there, looking at a header of a shared message hangs private memory on it. */
#include "host.h"

#include <ctype.h>
#include <strings.h>

static int last_id;

bool str_is(os_str s, const char *text)
{
	return s.s && (size_t)s.len == strlen(text) && !memcmp(s.s, text, (size_t)s.len);
}

bool str_same(os_str a, os_str b)
{
	return a.len == b.len && !memcmp(a.s ? a.s : "", b.s ? b.s : "", (size_t)a.len);
}

static os_str trim(char *from, char *to)
{
	while (from < to && isspace((unsigned char)*from))
		from++;
	while (to > from && isspace((unsigned char)to[-1]))
		to--;
	return (os_str){from, (int)(to - from)};
}

os_str msg_header(const os_sip_msg *m, const char *name, int len)
{
	char *p = m->buf, *end = m->buf + m->len;

	p = memchr(p, '\n', (size_t)(end - p)); /* the first line is none */
	while (p && ++p < end) {
		char *eol = memchr(p, '\n', (size_t)(end - p)), *colon;

		if (!eol)
			eol = end;
		if (eol - p <= 1) /* the body begins */
			break;
		while (eol + 1 < end && (eol[1] == ' ' || eol[1] == '\t')) { /* folded */
			char *more = memchr(eol + 1, '\n', (size_t)(end - eol - 1));
			eol = more ? more : end;
		}
		colon = memchr(p, ':', (size_t)(eol - p));
		if (colon) {
			os_str n = trim(p, colon);
			if (n.len == len && !strncasecmp(n.s, name, (size_t)len))
				return trim(colon + 1, eol);
		}
		p = eol;
	}
	return (os_str){NULL, 0};
}

static os_str header2(const os_sip_msg *m, const char *name, const char *compact)
{
	os_str v = msg_header(m, name, (int)strlen(name));

	if (!v.s && compact)
		v = msg_header(m, compact, (int)strlen(compact));
	return v;
}

static os_str param(os_str v, const char *name)
{
	size_t n = strlen(name);
	char *p = memchr(v.s ? v.s : "", '>', (size_t)v.len), *end = v.s + v.len;

	for (p = p ? p : v.s; p && p < end; p++) {
		if (*p == ';' && end - p > (long)n + 1 && !strncasecmp(p + 1, name, n) && p[n + 1] == '=') {
			char *from = p + n + 2, *to = from;
			while (to < end && *to != ';' && *to != ',' && !isspace((unsigned char)*to))
				to++;
			return (os_str){from, (int)(to - from)};
		}
	}
	return (os_str){NULL, 0};
}

static os_str address(os_str v)
{
	char *lt = v.s ? memchr(v.s, '<', (size_t)v.len) : NULL, *gt;

	if (lt && (gt = memchr(lt, '>', (size_t)(v.s + v.len - lt))))
		return (os_str){lt + 1, (int)(gt - lt - 1)};
	if (v.s) {
		char *semi = memchr(v.s, ';', (size_t)v.len);
		return trim(v.s, semi ? semi : v.s + v.len);
	}
	return v;
}

int msg_uri_user(os_str uri, os_str *user, os_str *domain)
{
	char *end = uri.s + uri.len, *p = uri.s ? memchr(uri.s, ':', (size_t)uri.len) : NULL, *at, *stop;

	*user = *domain = (os_str){NULL, 0};
	if (!p)
		return -1;
	at = memchr(p, '@', (size_t)(end - p));
	if (at)
		*user = (os_str){p + 1, (int)(at - p - 1)};
	p = at ? at : p;
	for (stop = p + 1; stop < end && *stop != ':' && *stop != ';' && *stop != '?'; stop++)
		;
	*domain = (os_str){p + 1, (int)(stop - p - 1)};
	return 0;
}

static int fill(os_sip_msg *m)
{
	char *p = m->buf, *end = m->buf + m->len, *eol = memchr(p, '\n', (size_t)m->len), *a, *b;

	if (!eol)
		return -1;
	if (eol > p && eol[-1] == '\r')
		eol--;
	a = memchr(p, ' ', (size_t)(eol - p));
	if (!a)
		return -1;
	b = memchr(a + 1, ' ', (size_t)(eol - a - 1));
	if (!strncmp(p, "SIP/2.0 ", 8)) {
		m->request = false;
		m->status = (os_str){a + 1, 3};
		m->code = atoi(a + 1);
		m->reason = b ? (os_str){b + 1, (int)(eol - b - 1)} : (os_str){eol, 0};
	} else {
		if (!b)
			return -1;
		m->request = true;
		m->method = (os_str){p, (int)(a - p)};
		m->ruri = (os_str){a + 1, (int)(b - a - 1)};
	}
	m->callid = header2(m, "Call-ID", "i");
	m->from = header2(m, "From", "f");
	m->to = header2(m, "To", "t");
	m->from_uri = address(m->from);
	m->to_uri = address(m->to);
	m->from_tag = param(m->from, "tag");
	m->to_tag = param(m->to, "tag");
	m->cseq = header2(m, "CSeq", NULL);
	if (m->cseq.s) {
		char *sp = m->cseq.s, *e = m->cseq.s + m->cseq.len;
		while (sp < e && !isspace((unsigned char)*sp))
			sp++;
		m->cseq_no = (os_str){m->cseq.s, (int)(sp - m->cseq.s)};
		m->cseq_method = trim(sp, e);
	}
	m->branch = param(header2(m, "Via", "v"), "branch");
	m->content_length = header2(m, "Content-Length", "l");
	m->user_agent = header2(m, "User-Agent", NULL);
	for (p = m->buf; p + 3 < end; p++) {
		if (!memcmp(p, "\r\n\r\n", 4)) {
			m->body = (os_str){p + 4, (int)(end - p - 4)};
			break;
		}
	}
	return 0;
}

os_sip_msg *msg_parse(const char *text, int len)
{
	os_sip_msg *m = calloc(1, sizeof *m);

	m->magic = MSG_ALIVE;
	m->id = ++last_id;
	m->buf = malloc((size_t)len + 1);
	memcpy(m->buf, text, (size_t)len);
	m->buf[len] = 0;
	m->len = len;
	if (fill(m) < 0) {
		LM_ERR("cannot parse message");
		free(m->buf);
		free(m);
		return NULL;
	}
	return m;
}

os_sip_msg *msg_clone(const os_sip_msg *m)
{
	os_sip_msg *c = shm_new(K_MSG, sizeof *c + (size_t)m->len + 1);

	c->magic = MSG_ALIVE;
	c->id = m->id;
	c->shared = true;
	c->parsed = m->parsed;
	c->flags = m->flags;
	c->buf = (char *)(c + 1);
	memcpy(c->buf, m->buf, (size_t)m->len + 1);
	c->len = m->len;
	fill(c);
	return c;
}

os_sip_msg *msg_private_copy(const os_sip_msg *m)
{
	os_sip_msg *c = msg_parse(m->buf, m->len);

	c->id = m->id;
	c->flags = m->flags;
	return c;
}

/* ---- flags, by their names ---- */
static char flag_name[32][64];

int flag_number(const char *name, int len)
{
	for (int i = 0; i < 32; i++) {
		if (!flag_name[i][0])
			snprintf(flag_name[i], sizeof flag_name[i], "%.*s", len, name);
		if ((int)strlen(flag_name[i]) == len && !memcmp(flag_name[i], name, (size_t)len))
			return i;
	}
	return -1;
}

int get_flag_id_by_name(int type, char *name, int len)
{
	if (S->status != ST_STARTING)
		host_abort("get_flag_id_by_name() after the fork");
	return type == OS_FLAG_TYPE_MSG ? flag_number(name, len) : -1;
}

int isflagset(os_sip_msg *m, unsigned flag)
{
	return m->flags >> flag & 1 ? 1 : -1;
}

int resetflag(os_sip_msg *m, unsigned flag)
{
	if (m->shared)
		host_abort("resetflag() on a shared message");
	m->flags &= ~(1u << flag);
	return 1;
}

/* a request of nobody, for what wants a message */
os_sip_msg *get_dummy_sip_msg(void)
{
	static const char text[] = "DUMMY sip:dummy@dummy.invalid SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKdummy\r\n"
	                           "From: <sip:dummy@dummy.invalid>;tag=dummy\r\nTo: <sip:dummy@dummy.invalid>\r\nCall-ID: dummy\r\n"
	                           "CSeq: 1 DUMMY\r\nContent-Length: 0\r\n\r\n";
	os_sip_msg *m = msg_parse(text, (int)sizeof text - 1);

	m->dummy = true;
	return m;
}

int is_dummy_sip_msg(os_sip_msg *m)
{
	return m && m->dummy ? 0 : -1;
}

void release_dummy_sip_msg(os_sip_msg *m)
{
	msg_free(m);
}

/* freed private messages stay around for a while, marked, so that a late look at one is noticed */
void msg_free(os_sip_msg *m)
{
	static os_sip_msg *late[64];
	static unsigned at;

	m->magic = MSG_DEAD;
	if (m->shared) {
		shm_drop(K_MSG, m);
		return;
	}
	free(m->buf);
	m->buf = NULL;
	free(late[at]);
	late[at] = m;
	at = (at + 1) % 64;
}

void msg_readable(os_sip_msg *m, const char *what, unsigned header)
{
	if (m == OS_FAKED_REPLY)
		host_abort("%s read on the faked reply", what);
	if (m->magic == MSG_DEAD)
		host_abort("%s read on a message that is freed", what);
	if (m->magic != MSG_ALIVE)
		host_abort("%s read on something that is no message", what);
	if (m->shared && m->request)
		host_abort("%s read on the shared request: the real server hangs private memory on it", what);
	if (m->shared && (header & ~m->parsed))
		host_abort("%s read on a shared reply whose header was not parsed while it was private", what);
	m->parsed |= header;
}
