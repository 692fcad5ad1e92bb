/* SPDX-License-Identifier: GPL-2.0-or-later
 * The script: statements, their arguments bound before the fork and evaluated per call as the real core does it. */
#include "host.h"

#include <ctype.h>
#include <unistd.h>

enum core_fn { F_MODULE, F_RELAY, F_NEWTRAN, F_CHECK_TRANS, F_ON_FAILURE, F_ON_REPLY, F_ON_BRANCH, F_T_REPLY, F_SL_REPLY, F_SEND_REPLY,
               F_CREATE_DIALOG, F_LOOSE_ROUTE, F_APPEND_BRANCH, F_EXIT, F_DROP, F_RELAY_ERROR, F_ROUTE, F_SETFLAG, F_RESETFLAG };
static const struct { const char *name; enum core_fn f; } core_fns[] = {
	{"t_relay", F_RELAY}, {"t_newtran", F_NEWTRAN}, {"t_check_trans", F_CHECK_TRANS}, {"t_on_failure", F_ON_FAILURE},
	{"t_on_reply", F_ON_REPLY}, {"t_on_branch", F_ON_BRANCH}, {"t_reply", F_T_REPLY}, {"sl_send_reply", F_SL_REPLY},
	{"send_reply", F_SEND_REPLY}, {"create_dialog", F_CREATE_DIALOG}, {"loose_route", F_LOOSE_ROUTE}, {"append_branch", F_APPEND_BRANCH},
	{"exit", F_EXIT}, {"drop", F_DROP}, {"t_relay_error", F_RELAY_ERROR}, {"route", F_ROUTE},
	{"setflag", F_SETFLAG}, {"resetflag", F_RESETFLAG},
};

static _Noreturn void bad(int line, const char *what, const char *text)
{
	fprintf(stderr, "%s:%d: %s: %s\n", scenario.file, line, what, text);
	exit(2);
}

static char *skip(char *p)
{
	while (isspace((unsigned char)*p))
		p++;
	return p;
}

/* "text" with escapes; p stands on the first quote */
static char *quoted(char *p, struct arg *a, int line)
{
	char *out = a->text = malloc(strlen(p) + 1);

	for (p++; *p && *p != '"'; p++) {
		if (*p != '\\') {
			*out++ = *p;
			continue;
		}
		switch (*++p) {
		case 'n': *out++ = '\n'; break;
		case 'r': *out++ = '\r'; break;
		case 't': *out++ = '\t'; break;
		case 'x': {
			char hex[3] = {p[1], p[1] ? p[2] : 0, 0};
			*out++ = (char)strtol(hex, NULL, 16);
			p += 2;
			break;
		}
		default: *out++ = *p;
		}
	}
	if (*p != '"')
		bad(line, "no closing quote", a->text);
	*out = 0;
	a->len = (int)(out - a->text);
	a->kind = A_STRING;
	return p + 1;
}

static char *value(char *p, struct arg *a, int line)
{
	char *from = p;

	if (*p == '"')
		return quoted(p, a, line);
	if (*p == '-' || isdigit((unsigned char)*p)) {
		a->kind = A_NUMBER;
		a->number = strtol(p, &p, 10);
		return p;
	}
	if (*p == '$') {
		int depth = 0;

		for (p++; *p && (depth || isalnum((unsigned char)*p) || strchr("_.([", *p)); p++) {
			if (*p == '(' || *p == '[')
				depth++;
			else if (*p == ')' || *p == ']')
				depth--;
		}
		a->text = strndup(from, (size_t)(p - from));
		a->len = (int)(p - from);
		a->kind = strcmp(a->text, "$null") ? A_VAR : A_NULL;
		return p;
	}
	if (!strncmp(p, "null", 4)) {
		a->kind = A_NULL;
		return p + 4;
	}
	bad(line, "no value", from);
}

struct stmt *stmt_parse(char *text, int line)
{
	struct stmt *s = calloc(1, sizeof *s);
	char *p = skip(text);
	size_t n = strlen(p);

	while (n && (isspace((unsigned char)p[n - 1]) || p[n - 1] == ';'))
		p[--n] = 0;
	s->line = line;
	s->text = strdup(p);
	if (*p == '$') {
		struct arg t = {0};
		s->kind = SM_ASSIGN;
		p = skip(value(p, &t, line));
		s->name = t.text;
		if (*p != '=')
			bad(line, "no =", s->text);
		p = skip(value(skip(p + 1), &s->arg[0], line));
	} else if (!strncmp(p, "check ", 6)) {
		struct arg t = {0};
		s->kind = SM_CHECK;
		p = skip(value(skip(p + 6), &t, line));
		s->name = t.text;
		p = skip(value(p, &s->arg[0], line));
	} else if (!strncmp(p, "xlog ", 5)) {
		s->kind = SM_XLOG;
		p = skip(value(skip(p + 5), &s->arg[0], line));
	} else {
		char *from = p;

		s->kind = SM_CALL;
		while (isalnum((unsigned char)*p) || *p == '_')
			p++;
		s->name = strndup(from, (size_t)(p - from));
		p = skip(p);
		if (*p == '(') {
			p = skip(p + 1);
			while (*p && *p != ')') {
				if (s->nargs == 10)
					bad(line, "too many arguments", s->text);
				if (*p == ',') {
					s->arg[s->nargs++].kind = A_NULL;
					p = skip(p + 1);
					continue;
				}
				p = skip(value(p, &s->arg[s->nargs++], line));
				if (*p == ',')
					p = skip(p + 1);
				else if (*p != ')')
					bad(line, "no closing parenthesis", s->text);
			}
			if (*p != ')')
				bad(line, "no closing parenthesis", s->text);
			p = skip(p + 1);
		}
	}
	if (p[0] == '-' && p[1] == '>') {
		s->has_expect = true;
		s->expect = atoi(p + 2);
	} else if (*p) {
		bad(line, "unexpected rest", p);
	}
	return s;
}

/* ---- before the fork ---- */
static int parse_var(const char *text, int len, os_pv_spec **spec)
{
	os_str in = {(char *)text, len};
	char *end;

	*spec = calloc(1, sizeof **spec);
	end = pv_parse_spec(&in, *spec);
	if (!end || end != text + len) {
		LM_ERR("error in parsing script variable \"%s\"", text);
		return -1;
	}
	return 0;
}

static const os_cmd_export *find_cmd(const char *name, int route)
{
	os_sr_module *m;

	for (m = modules; m; m = *(os_sr_module **)((char *)m + version.next))
		for (const os_cmd_export *c = m->exports->cmds; c && c->name; c++)
			if (!strcmp(c->name, name) && (c->flags & route) == route)
				return c;
	return NULL;
}

static int bind_names(struct route *r, struct stmt *s)
{
	if (s->kind == SM_ASSIGN || s->kind == SM_CHECK) {
		if (parse_var(s->name, (int)strlen(s->name), &s->target) < 0)
			return -1;
		if (s->kind == SM_ASSIGN && !s->target->setf) {
			LM_ERR("invalid left operand in assignment: %s is read only", s->name);
			return -1;
		}
	}
	if (s->kind != SM_CALL) {
		if (s->arg[0].kind == A_VAR)
			return parse_var(s->arg[0].text, s->arg[0].len, &s->arg[0].spec);
		if (s->arg[0].kind == A_STRING && (s->kind == SM_XLOG || (s->kind == SM_ASSIGN && strchr(s->arg[0].text, '$'))))
			return (s->arg[0].format = format_parse(s->arg[0].text, s->arg[0].len)) ? 0 : -1;
		return 0;
	}
	for (size_t i = 0; i < sizeof core_fns / sizeof *core_fns; i++)
		if (!strcmp(core_fns[i].name, s->name))
			s->core = (int)core_fns[i].f;
	for (int i = 0; i < s->nargs; i++)
		if (s->arg[i].kind == A_VAR && parse_var(s->arg[i].text, s->arg[i].len, &s->arg[i].spec) < 0)
			return -1;
	if (s->core)
		return 0;
	s->cmd = find_cmd(s->name, r->kind);
	if (!s->cmd) {
		if (find_cmd(s->name, 0))
			LM_ERR("Command <%s> cannot be used in the block", s->name);
		else
			LM_ERR("unknown command <%s>, missing loadmodule?", s->name);
		return -1;
	} else {
		int max = 0, min = 0;

		for (const os_cmd_param *p = s->cmd->params; p->flags; p++) {
			max++;
			if (!(p->flags & OS_CMD_PARAM_OPT))
				min = max;
		}
		if (s->nargs < min || s->nargs > max) {
			LM_ERR("Too %s parameters for command <%s>", s->nargs < min ? "few" : "many", s->name);
			return -1;
		}
		for (int i = 0; i < s->nargs; i++) {
			if (s->arg[i].kind == A_NULL && !(s->cmd->params[i].flags & OS_CMD_PARAM_OPT)) {
				LM_ERR("Mandatory parameter missing for command <%s>", s->name);
				return -1;
			}
		}
	}
	return 0;
}

static int bind_args(struct stmt *s)
{
	int i = 0;

	for (const os_cmd_param *p = s->cmd->params; p->flags; p++, i++) {
		struct arg *a = &s->arg[i];
		void *h;

		if (i >= s->nargs || a->kind == A_NULL || a->kind == A_NONE) {
			a->bound = B_NULL;
			if (p->fixup && p->flags & OS_CMD_PARAM_FIX_NULL) {
				h = NULL;
				if (p->fixup(&h) < 0) {
					LM_ERR("Fixup failed for param [%d]", i + 1);
					return -1;
				}
				if (h) {
					a->bound = B_FIXED;
					a->fixed = h;
				}
			}
			continue;
		}
		if (a->kind == A_VAR) {
			if (p->flags & OS_CMD_PARAM_STATIC) {
				LM_ERR("Param [%d] does not support variables", i + 1);
				return -1;
			}
			a->bound = B_SPEC;
			if (p->flags & OS_CMD_PARAM_VAR && p->fixup) {
				h = a->spec;
				if (p->fixup(&h) < 0)
					return -1;
				a->spec = h;
			}
			continue;
		}
		if (p->flags & OS_CMD_PARAM_VAR || (p->flags & OS_CMD_PARAM_INT && a->kind != A_NUMBER) ||
		    (p->flags & (OS_CMD_PARAM_STR | OS_CMD_PARAM_REGEX) && a->kind != A_STRING)) {
			LM_ERR("Param [%d] expected to be %s or variable", i + 1, p->flags & OS_CMD_PARAM_INT ? "an integer" : "a string");
			return -1;
		}
		if (p->flags & OS_CMD_PARAM_STR && !(p->flags & OS_CMD_PARAM_NO_EXPAND)) {
			a->format = format_parse(a->text, a->len);
			if (!a->format) {
				LM_ERR("Failed to parse formatted string in param [%d]", i + 1);
				return -1;
			}
			if (!format_is_plain(a->format)) {
				if (p->flags & OS_CMD_PARAM_STATIC) {
					LM_ERR("Param [%d] does not support formatted strings", i + 1);
					return -1;
				}
				a->bound = B_FORMAT;
				continue;
			}
		}
		a->bound = B_VALUE;
		a->value = (os_str){a->text, a->len};
		a->ivalue = (int)a->number;
		if (p->fixup) {
			void *before = h = p->flags & OS_CMD_PARAM_INT ? (void *)&a->ivalue : (void *)&a->value;
			if (p->fixup(&h) < 0) {
				LM_ERR("Fixup failed for param [%d]", i + 1);
				return -1;
			}
			if (h != before) {
				a->bound = B_FIXED;
				a->fixed = h;
			}
		}
	}
	return 0;
}

int route_compile(struct route *r, bool fix)
{
	for (struct stmt *s = r->first; s; s = s->next) {
		int rc = fix ? (s->kind == SM_CALL && !s->core ? bind_args(s) : 0) : bind_names(r, s);

		if (rc < 0) {
			LM_ERR("%s: %s:%d: %s", fix ? "fixing failed" : "parse error", scenario.file, s->line, s->text);
			return -1;
		}
	}
	return 0;
}

/* ---- per message ---- */
struct route *route_find(int kind, const char *name)
{
	struct route *best = NULL;

	for (struct route *r = scenario.routes; r; r = r->next)
		if (r->kind == kind && r->name[0] && !strcmp(r->name, name) && r->generation < settings.generation &&
		    (!best || r->generation > best->generation))
			best = r;
	return best;
}

/* a named route counts from the next start on, until another one takes its name; a block belongs to one start */
bool route_in_force(struct route *r)
{
	return r->name[0] ? route_find(r->kind, r->name) == r : r->generation == settings.generation;
}

static int call_module(struct stmt *s, os_sip_msg *m)
{
	void *param[8] = {0};
	os_pv_value tmp[8];
	os_str str[8];
	char *printed[8] = {0};
	bool fixed_now[8] = {0};
	int i = 0, rc = -1;

	memset(tmp, 0, sizeof tmp);
	for (const os_cmd_param *p = s->cmd->params; p->flags; p++, i++) {
		struct arg *a = &s->arg[i];

		switch (a->bound) {
		case B_NULL: break;
		case B_FIXED: param[i] = a->fixed; break;
		case B_VALUE:
			tmp[i].ri = a->ivalue;
			tmp[i].rs = a->value; /* the callee may change its copy */
			param[i] = p->flags & OS_CMD_PARAM_INT ? (void *)&tmp[i].ri : (void *)&tmp[i].rs;
			break;
		case B_FORMAT:
			printed[i] = format_print(m, a->format, &str[i].len);
			if (!printed[i]) {
				LM_ERR("Failed to print formatted string in param [%d]", i + 1);
				goto done;
			}
			str[i].s = printed[i];
			tmp[i].rs = str[i];
			param[i] = &tmp[i].rs;
			goto fix;
		case B_SPEC:
			if (p->flags & OS_CMD_PARAM_VAR) {
				param[i] = a->spec;
				break;
			}
			if (pv_get_spec_value(m, a->spec, &tmp[i]) != 0) {
				LM_ERR("Failed to get spec value in param [%d]", i + 1);
				goto done;
			}
			if (tmp[i].flags & OS_PV_VAL_NULL || !(tmp[i].flags & (p->flags & OS_CMD_PARAM_INT ? OS_PV_VAL_INT : OS_PV_VAL_STR))) {
				LM_ERR("Variable in param [%d] is not %s", i + 1, p->flags & OS_CMD_PARAM_INT ? "an integer" : "a string");
				goto done;
			}
			param[i] = p->flags & OS_CMD_PARAM_INT ? (void *)&tmp[i].ri : (void *)&tmp[i].rs;
			goto fix;
		}
		continue;
	fix:
		if (p->fixup) {
			void *before = param[i];
			if (p->fixup(&param[i]) < 0) {
				LM_ERR("Fixup failed for param [%d]", i + 1);
				goto done;
			}
			fixed_now[i] = param[i] != before;
		}
	}
	rc = s->cmd->function(m, param[0], param[1], param[2], param[3], param[4], param[5], param[6], param[7]);
done:
	for (i = 0; i < 8; i++) {
		if (fixed_now[i] && s->cmd->params[i].free_fixup)
			s->cmd->params[i].free_fixup(&param[i]);
		free(printed[i]);
	}
	return rc;
}

static int call_core(struct stmt *s, os_sip_msg *m, bool *stop)
{
	const char *a0 = s->nargs && s->arg[0].kind == A_STRING ? s->arg[0].text : "";
	int n0 = s->nargs && s->arg[0].kind == A_NUMBER ? (int)s->arg[0].number : 0, rc;
	const char *a1 = s->nargs > 1 && s->arg[1].kind == A_STRING ? s->arg[1].text : "";
	struct route *r;

	switch ((enum core_fn)s->core) {
	case F_RELAY:
		rc = tm_relay(m, 0);
		*stop = rc == 0;
		return rc;
	case F_NEWTRAN:
		rc = tm_newtran(m);
		*stop = rc == 0;
		return rc;
	case F_CHECK_TRANS:
		rc = tm_check_trans(m);
		*stop = rc == 0;
		return rc;
	case F_ON_FAILURE: case F_ON_REPLY: case F_ON_BRANCH:
		tm_set_route(s->name, a0);
		return 1;
	case F_T_REPLY: return tm_reply(m, n0, a1, NULL);
	case F_SL_REPLY: return 1;
	case F_SEND_REPLY: return T && T != OS_T_UNDEFINED ? tm_reply(m, n0, a1, NULL) : 1;
	case F_CREATE_DIALOG: return dlg_create(m, strstr(a0, "B") || strstr(a0, "bye-on-timeout"));
	case F_LOOSE_ROUTE:
		if (settings.dialog)
			dlg_match(m);
		return 1;
	case F_APPEND_BRANCH: return tm_append_branch();
	case F_SETFLAG: m->flags |= 1u << flag_number(a0, (int)strlen(a0)); return 1;
	case F_RESETFLAG: m->flags &= ~(1u << flag_number(a0, (int)strlen(a0))); return 1;
	case F_RELAY_ERROR:
		rc = tm_relay_error(m, n0);
		*stop = rc == 0;
		return rc;
	case F_ROUTE:
		r = route_find(current_route, a0);
		if (!r) {
			LM_ERR("no route %s", a0);
			return -1;
		}
		rc = route_run(r, m);
		*stop = rc <= 0;
		return rc;
	case F_EXIT: case F_DROP:
		*stop = true;
		return s->core == F_DROP ? -1 : 0;
	case F_MODULE: break;
	}
	return -1;
}

static int assign(struct stmt *s, os_sip_msg *m)
{
	os_pv_value v;
	struct arg *a = &s->arg[0];
	char *printed = NULL;
	int rc;

	memset(&v, 0, sizeof v);
	switch (a->kind) {
	case A_NUMBER:
		v.ri = (int)a->number;
		v.flags = OS_PV_VAL_INT | OS_PV_TYPE_INT;
		break;
	case A_STRING:
		v.rs = (os_str){a->text, a->len};
		v.flags = OS_PV_VAL_STR;
		if (a->format) {
			printed = format_print(m, a->format, &v.rs.len);
			if (!printed)
				return -1;
			v.rs.s = printed;
		}
		break;
	case A_VAR:
		if (pv_get_spec_value(m, a->spec, &v) != 0)
			return -1;
		break;
	default:
		v.flags = OS_PV_VAL_NULL;
	}
	rc = s->target->setf(m, &s->target->pvp, 254, v.flags & OS_PV_VAL_NULL ? NULL : &v) < 0 ? -1 : 1;
	free(printed);
	return rc;
}

static void check(struct stmt *s, os_sip_msg *m)
{
	os_pv_value v;
	struct arg *a = &s->arg[0];
	int rc = pv_get_spec_value(m, s->target, &v);

	if (rc != 0 || v.flags & OS_PV_VAL_NULL)
		report(rc == 0 && a->kind == A_NULL, s->line, "%s (it is null)", s->text);
	else if (a->kind == A_NUMBER)
		report(v.flags & OS_PV_VAL_INT && v.ri == (int)a->number, s->line, "%s (it is %d, flags %d)", s->text, v.ri, v.flags);
	else
		report(a->kind == A_STRING && v.flags & OS_PV_VAL_STR && v.rs.len == a->len && !memcmp(v.rs.s, a->text, (size_t)a->len), s->line,
		       "%.200s (it is \"%.*s\", %d bytes)", s->text, v.rs.len > 200 ? 200 : v.rs.len, v.rs.s ? v.rs.s : "", v.rs.len);
}

int route_run(struct route *r, os_sip_msg *m)
{
	for (struct stmt *s = r->first; s; s = s->next) {
		bool stop = false;
		int rc = 1;

		switch (s->kind) {
		case SM_CALL:
			if (s->core) {
				rc = call_core(s, m, &stop);
			} else {
				rc = call_module(s, m);
				stop = rc == 0;
			}
			break;
		case SM_ASSIGN: rc = assign(s, m); break;
		case SM_CHECK: check(s, m); break;
		case SM_XLOG: {
			int len;
			char *text = s->arg[0].format ? format_print(m, s->arg[0].format, &len) : NULL;
			if (text)
				dprintf(2, "X> %s\n", text);
			free(text);
			break;
		}
		}
		if (s->has_expect)
			report(rc == s->expect, s->line, "%.200s (it returned %d)", s->text, rc);
		if (stop)
			return s->core == F_DROP ? -1 : 0;
	}
	return 1;
}
