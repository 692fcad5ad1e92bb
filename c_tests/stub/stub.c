/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A module that only reports what the host does to it: the host's own test. It uses the same part of the interface as
 * the real one and writes a line per call to it. */
#define OS_ABI_DECLARE_HOST
#include "opensips_abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int number = 7, poison, refuse;
static char *text;
static os_tm_binds *tm;
static char tm_room[OS_BINDS_ROOM];
static os_dlg_binds dlg;
static int global_pos, tran_pos, dialog_pos, have_dialog, event;
static os_t_ctx_put_ptr_fn *t_put;
static os_t_ctx_get_ptr_fn *t_get;
static char (*box)[256]; /* shared */
static os_pv_spec *from_tag, *call_id, *reply_code, *to_tag;

#define SAY(...) \
	do { char line_[512]; int n_ = snprintf(line_, sizeof line_ - 1, __VA_ARGS__); line_[n_] = '\n'; \
	     if (write(2, line_, (size_t)n_ + 1) < 0) _exit(9); } while (0)

static int note(os_modparam type, void *val)
{
	if (type == OS_STR_PARAM)
		SAY("STUB note %s", (char *)val);
	else
		SAY("STUB note %d", (int)(long)val);
	return 0;
}

static const char *read_var(os_sip_msg *m, os_pv_spec *spec)
{
	static char out[4][128];
	static int at;
	os_pv_value v;

	at = (at + 1) % 4;
	if (pv_get_spec_value(m, spec, &v) != 0 || v.flags & OS_PV_VAL_NULL)
		return "-";
	snprintf(out[at], sizeof out[at], "%.*s", v.rs.len, v.rs.s);
	return out[at];
}

static void gone(void *what)
{
	SAY("STUB context value %s destroyed", (char *)what);
}

static void released(void *what)
{
	SAY("STUB param %s released", (char *)what);
}

static void on_tran(os_cell *t, int type, os_tmcb_params *p)
{
	SAY("STUB tm %#x code %d%s in %d ctx %s", (unsigned)type, p->code, p->rpl == OS_FAKED_REPLY ? " faked" : "", process_no,
	    type == OS_TMCB_TRANS_DELETED ? "?" : t_get(t, tran_pos) ? (char *)t_get(t, tran_pos) : "none");
	if (type == OS_TMCB_RESPONSE_IN)
		SAY("STUB reply %s totag %s", read_var(p->rpl, reply_code), read_var(p->rpl, to_tag));
	if (type == OS_TMCB_RESPONSE_OUT && poison)
		read_var(p->req, from_tag);
}

static void on_dialog(os_dlg_cell *d, int type, os_dlg_cb_params *p)
{
	os_str name = {(char *)"stub", 4};
	os_int_str v;
	int kind;

	if (type == OS_DLGCB_WRITE_VP) {
		v.s = (os_str){(char *)"kept\0text", 9};
		dlg.store_dlg_value(d, &name, &v, OS_DLG_VAL_TYPE_STR);
	}
	SAY("STUB dialog %#x direction %u msg %d%s", (unsigned)type, p->direction, p->msg != NULL, dlg.get_dlg() == d ? " current" : "");
	if (type == OS_DLGCB_LOADED) {
		int rc = dlg.fetch_dlg_value(d, &name, &kind, &v, 0);
		SAY("STUB loaded rc %d len %d", rc, rc == 0 ? v.s.len : -1);
		dlg.register_dlgcb(d, OS_DLGCB_TERMINATED | OS_DLGCB_EXPIRED, on_dialog, NULL, NULL);
	}
	if (type == OS_DLGCB_CREATED) {
		dlg.dlg_ctx_put_ptr(d, dialog_pos, (void *)"in-dialog");
		dlg.register_dlgcb(d, OS_DLGCB_CONFIRMED | OS_DLGCB_REQ_WITHIN | OS_DLGCB_TERMINATED | OS_DLGCB_EXPIRED | OS_DLGCB_WRITE_VP | OS_DLGCB_FAILED,
		                   on_dialog, (void *)"dialog", released);
	}
}

static int stub_mark(os_sip_msg *m, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	os_str *name = p1, *more = p2;
	void *ctx = current_processing_ctx;
	const char *mark = "in-context";

	(void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	SAY("STUB mark %.*s %.*s from %s call %s t %d", name->len, name->s, more ? more->len : 1, more ? more->s : "-", read_var(m, from_tag),
	    read_var(m, call_id), tm->t_gett() && tm->t_gett() != OS_T_UNDEFINED);
	memcpy((char *)ctx + type_offsets[OS_CONTEXT_GLOBAL][OS_CONTEXT_PTR_TYPE] + (size_t)global_pos * 8, &mark, 8);
	if (have_dialog)
		dlg.create_dlg(m, 0);
	return tm->register_tmcb(m, NULL,
	                         OS_TMCB_RESPONSE_IN | OS_TMCB_RESPONSE_OUT | OS_TMCB_ON_FAILURE | OS_TMCB_LOCAL_COMPLETED | OS_TMCB_TRANS_DELETED,
	                         on_tran, (void *)"tran", released);
}

static int stub_event(os_sip_msg *m, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	os_str name[] = {{(char *)"s", 1}, {(char *)"nothing", 7}, {(char *)"n", 1}}, text = {(char *)"x y", 3}, nothing = {NULL, 0};
	os_evi_params *list = evi_get_params();
	int n = -3;

	evi_param_add(list, &name[0], &text, OS_EVI_STR_VAL);
	evi_param_add(list, &name[1], &nothing, OS_EVI_STR_VAL);
	evi_param_add(list, &name[2], &n, OS_EVI_INT_VAL);
	(void)m, (void)p1, (void)p2, (void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	SAY("STUB probe %d", evi_probe_event(event));
	return evi_raise_event(event, list) == 0 ? 1 : -1;
}

static int stub_put(os_sip_msg *m, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	(void)m, (void)p1, (void)p2, (void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	if (!tm->t_gett() || tm->t_gett() == OS_T_UNDEFINED)
		return -1;
	t_put(tm->t_gett(), tran_pos, (void *)"in-tran");
	return 1;
}

static int stub_number(os_sip_msg *m, void *p1, void *p2, void *p3, void *p4, void *p5, void *p6, void *p7, void *p8)
{
	(void)m, (void)p2, (void)p3, (void)p4, (void)p5, (void)p6, (void)p7, (void)p8;
	return *(int *)p1;
}

static int fix_word(void **p)
{
	os_str *s = *p;
	char *fixed;

	if (s->len == 3 && !memcmp(s->s, "bad", 3))
		return -1;
	fixed = malloc(sizeof(os_str) + 64);
	((os_str *)fixed)->s = fixed + sizeof(os_str);
	((os_str *)fixed)->len = snprintf(fixed + sizeof(os_str), 60, "<%.*s>", s->len, s->s);
	*p = fixed;
	return 0;
}

static int free_word(void **p)
{
	free(*p);
	return 0;
}

static int get_box(os_sip_msg *m, os_pv_param *p, os_pv_value *v)
{
	char *b = box[p->pvn.u.isname.name.n];

	(void)m;
	v->flags = *b ? OS_PV_VAL_STR : OS_PV_VAL_NULL;
	v->rs = (os_str){b, (int)strlen(b)};
	return 0;
}

static int set_box(os_sip_msg *m, os_pv_param *p, int op, os_pv_value *v)
{
	char *b = box[p->pvn.u.isname.name.n];

	(void)m, (void)op;
	if (p->pvi.type == OS_PV_IDX_INT && p->pvi.u.ival == 9)
		return -1;
	if (!v || v->flags & OS_PV_VAL_NULL)
		*b = 0;
	else if (v->flags & OS_PV_VAL_STR)
		snprintf(b, 256, "%.*s", v->rs.len, v->rs.s);
	else
		snprintf(b, 256, "%d", v->ri);
	return 0;
}

static int box_name(os_pv_spec *sp, const os_str *in)
{
	os_pv_param *p = (os_pv_param *)((char *)sp + OS_PV_SPEC_PVP);

	if (in->len != 1 || *in->s < 'a' || *in->s > 'z')
		return -1;
	p->pvn.u.isname.name.n = *in->s - 'a';
	return 0;
}

static int box_index(os_pv_spec *sp, const os_str *in)
{
	os_pv_param *p = (os_pv_param *)((char *)sp + OS_PV_SPEC_PVP);

	p->pvi.type = OS_PV_IDX_INT;
	p->pvi.u.ival = atoi(in->s);
	return 0;
}

static os_pv_spec *variable(const char *name)
{
	os_str in = {(char *)name, (int)strlen(name)};
	os_pv_spec *s = malloc(OS_PV_SPEC_ROOM);

	return pv_parse_spec(&in, s) ? s : NULL;
}

static unsigned long forty_two(void *context)
{
	(void)context;
	return 42;
}

static int init(void)
{
	int row = 0, a, b, c;
	os_cmd_fn *load;

	SAY("STUB init number %d text %s", number, text ? text : "-");
	if (refuse)
		return -1;
	for (os_sr_module *m = modules; m && !row; m = NULL)
		if (sscanf(m->exports->ver_info.version, "opensips %d.%d.%d", &a, &b, &c) == 3)
			row = a * 10000 + b * 100 + c;
	tm = (os_tm_binds *)tm_room;
	load = find_export("load_tm", 0);
	if (!load || load((os_sip_msg *)tm, 0, 0, 0, 0, 0, 0, 0, 0) < 0)
		return -1;
	a = row >= 30607 ? OS_TM_T_CTX_REGISTER_PTR_3_6_7 : OS_TM_T_CTX_REGISTER_PTR_3_4_7;
	tran_pos = (*(os_t_ctx_register_ptr_fn **)(tm_room + a))(gone);
	t_put = *(os_t_ctx_put_ptr_fn **)(tm_room + a + OS_TM_T_CTX_PUT_PTR);
	t_get = *(os_t_ctx_get_ptr_fn **)(tm_room + a + OS_TM_T_CTX_GET_PTR);
	load = find_export("load_dlg", 0);
	if (load && load((os_sip_msg *)&dlg, 0, 0, 0, 0, 0, 0, 0, 0) >= 0) {
		have_dialog = 1;
		dialog_pos = dlg.dlg_ctx_register_ptr(gone);
		dlg.register_dlgcb(NULL, OS_DLGCB_CREATED, on_dialog, NULL, NULL);
		dlg.register_dlgcb(NULL, OS_DLGCB_LOADED, on_dialog, NULL, NULL);
	}
	global_pos = context_register_ptr(OS_CONTEXT_GLOBAL, gone);
	event = evi_publish_event((os_str){(char *)"E_STUB", 6});
	from_tag = variable("$ft");
	call_id = variable("$ci");
	reply_code = variable("$rs");
	to_tag = variable("$tt");
	box = mmap(NULL, 26 * 256, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return from_tag && call_id && reply_code && to_tag ? 0 : -1;
}

static int child(int rank)
{
	SAY("STUB child %d process %d", rank, process_no);
	return 0;
}

static void extra(int no)
{
	SAY("STUB extra process %d", no);
	for (;;)
		pause();
}

static void end(void)
{
	SAY("STUB end");
}

static const os_cmd_export cmds[] = {
	{"stub_mark", stub_mark, {{OS_CMD_PARAM_STR, fix_word, free_word}, {OS_CMD_PARAM_STR | OS_CMD_PARAM_OPT, NULL, NULL}, {0, NULL, NULL}},
	 OS_REQUEST_ROUTE | OS_LOCAL_ROUTE},
	{"stub_event", stub_event, {{0, NULL, NULL}}, OS_ALL_ROUTES},
	{"stub_put", stub_put, {{0, NULL, NULL}}, OS_ALL_ROUTES},
	{"stub_number", stub_number, {{OS_CMD_PARAM_INT, NULL, NULL}, {0, NULL, NULL}}, OS_ALL_ROUTES},
	{NULL, NULL, {{0, NULL, NULL}}, 0},
};
static const os_param_export params[] = {
	{"number", OS_INT_PARAM, &number}, {"text", OS_STR_PARAM, &text}, {"note", OS_STR_PARAM | OS_INT_PARAM | OS_USE_FUNC_PARAM, note},
	{"poison", OS_INT_PARAM, &poison}, {"refuse", OS_INT_PARAM, &refuse}, {NULL, 0, NULL}};
static const os_pv_export items[] = {{{"box", 3}, 2001, get_box, set_box, box_name, box_index, NULL, 0}, {{NULL, 0}, 0, 0, 0, 0, 0, 0, 0}};
static const os_stat_export stats[] = {{(char *)"answer", OS_STAT_IS_FUNC, (os_stat_var **)forty_two}, {NULL, 0, NULL}};
static const os_proc_export procs[] = {{"stub extra", NULL, NULL, extra, 1, OS_PROC_FLAG_INITCHILD}, {NULL, NULL, NULL, NULL, 0, 0}};
static const os_dep_export deps = {
	{{OS_MOD_TYPE_DEFAULT, (char *)"tm", OS_DEP_ABORT}, {OS_MOD_TYPE_DEFAULT, (char *)"dialog", OS_DEP_SILENT}, {0, NULL, 0}}, {{NULL, NULL}}};

os_module_exports exports = {
	.name = "stub", .type = OS_MOD_TYPE_DEFAULT, .deps = &deps, .cmds = cmds, .params = params, .stats = stats, .items = items, .procs = procs,
	.init_f = init, .destroy_f = end, .init_child_f = child};

/* inside of dlopen(), before the host compares versions */
__attribute__((constructor)) static void learn(void)
{
	if (modules && !getenv("STUB_STUBBORN"))
		memcpy(&exports.ver_info, &modules->exports->ver_info, sizeof exports.ver_info);
	else {
		exports.ver_info.version = "opensips 1.2.3 (x86_64/linux)";
		exports.ver_info.compile_flags = "";
		exports.ver_info.scm = core_scm_ver;
	}
}
