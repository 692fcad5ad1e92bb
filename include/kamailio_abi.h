/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The part of the Kamailio module interface (5.6.2 .. 6.1.x, x86_64) that this module uses, in our own words.
 *
 * Read by bindgen (build.rs). Nothing here comes from the server's own headers.
 *
 * Rules of this file, as in opensips_abi.h:
 *  - every name begins with km_ or KM_;
 *  - structures that move between releases stay opaque; what moves and is still needed has one constant per
 *    version row;
 *  - functions are function types (km_..._fn): we look symbols up by name, we do not link against them.
 */
#ifndef KM_KAMAILIO_ABI_H
#define KM_KAMAILIO_ABI_H

#include <stddef.h>

/* ---- types -------------------------------------------------------------------------------------------------- */

/* never dereferenced, but for the two numbers at the head of a message */
typedef struct km_cell km_cell;       /* a transaction */
typedef struct km_dlg_cell km_dlg_cell; /* a dialog */
typedef struct km_pv_spec km_pv_spec;
typedef struct km_pv_elem km_pv_elem; /* a text with variables in it, parsed */
typedef struct km_action km_action;   /* a route, compiled */
typedef struct km_run_ctx km_run_ctx;
typedef struct km_sr_module km_sr_module; /* a module that is loaded */

/* a message: the number is unique in its process */
typedef struct km_sip_msg {
	unsigned int id;
	int pid;
} km_sip_msg;

typedef struct km_str {
	char *s;
	int len;
} km_str;

/* ---- module ------------------------------------------------------------------------------------------------- */

/* script functions: 1 and up = true, negative = false, 0 = stop the script; always called with as many arguments
 * as the script gives */
typedef int km_cmd_fn(km_sip_msg *, char *, char *, char *);
typedef int km_fixup_fn(void **param, int param_no);
typedef int km_init_fn(void);
typedef int km_child_init_fn(int rank);
typedef void km_destroy_fn(void);
typedef int km_response_fn(km_sip_msg *);
typedef int km_param_fn(unsigned int type, void *val);

typedef struct km_cmd_export {
	const char *name;
	km_cmd_fn *function;
	int param_no;
	km_fixup_fn *fixup;
	km_fixup_fn *free_fixup;
	unsigned int flags; /* KM_..._ROUTE */
} km_cmd_export;

typedef struct km_param_export {
	const char *name;
	unsigned int type;
	void *param_pointer;
} km_param_export;

#define KM_PARAM_STRING 1u
#define KM_PARAM_INT 2u
#define KM_PARAM_USE_FUNC 0x80000000u

#define KM_REQUEST_ROUTE 1u
#define KM_FAILURE_ROUTE 2u
#define KM_TM_ONREPLY_ROUTE 4u
#define KM_BRANCH_ROUTE 8u
#define KM_LOCAL_ROUTE 64u
#define KM_BRANCH_FAILURE_ROUTE 256u
#define KM_EVENT_ROUTE 513u /* a request route of its own kind */
#define KM_ANY_ROUTE 0xffffffffu

#define KM_NO_SCRIPT (-1) /* "number of parameters" of functions that are for modules only */

/* ranks of child_init */
#define KM_PROC_MAIN 0
#define KM_PROC_INIT (-127)
#define KM_PROC_NOCHLDINIT (-128)

/* management: numbers and strings are added with a format of one letter each, "{" opens a structure */
typedef struct km_rpc km_rpc;
typedef int km_rpc_add_fn(void *ctx, const char *fmt, ...);
typedef void km_rpc_fault_fn(void *ctx, int code, const char *fmt, ...);
typedef void km_rpc_fn(km_rpc *, void *ctx);
struct km_rpc {
	km_rpc_fault_fn *fault;
	void *send;
	km_rpc_add_fn *add;
	void *scan;
	void *rpl_printf;
	km_rpc_add_fn *struct_add; /* its first argument is what add gave for "{" */
};
typedef struct km_rpc_export {
	const char *name;
	km_rpc_fn *function;
	const char **doc_str;
	unsigned int flags;
} km_rpc_export;

/* ---- variables ---------------------------------------------------------------------------------------------- */

/* A value. Until 5.6 the number and the flags have four bytes each; from 5.7 on the number has eight. */
typedef struct km_pv_value_5_6 {
	km_str rs;
	int ri;
	int flags;
} km_pv_value_5_6;
typedef struct km_pv_value_5_7 {
	km_str rs;
	long ri;
	int flags;
} km_pv_value_5_7;

#define KM_PV_VAL_NULL 1
#define KM_PV_VAL_STR 4
#define KM_PV_VAL_INT 8
#define KM_PV_TYPE_INT 16

typedef struct km_pv_name {
	int type;
	void *nfree;
	struct {
		int type;
		union {
			long n; /* four or eight bytes */
			km_str s;
		} name;
	} isname;
} km_pv_name;

typedef struct km_pv_index {
	int type;
	union {
		int ival;
		void *dval;
	} u;
} km_pv_index;

typedef struct km_pv_param {
	km_pv_name pvn;
	km_pv_index pvi;
} km_pv_param;

#define KM_PV_IDX_INT 0
#define KM_PV_IDX_PVAR 1
#define KM_PV_IDX_NONE 4
#define KM_PVT_OTHER 22
#define KM_PV_SPEC_GETF 8 /* offsets in a specification: our two functions, and the parameter */
#define KM_PV_SPEC_SETF 16
#define KM_PV_SPEC_PVP 24

typedef int km_pv_get_fn(km_sip_msg *, km_pv_param *, void *value);
typedef int km_pv_set_fn(km_sip_msg *, km_pv_param *, int op, void *value);
typedef int km_pv_parse_fn(km_pv_spec *, km_str *in);

typedef struct km_pv_export {
	struct {
		const char *s;
		int len;
	} name;
	int type;
	km_pv_get_fn *getf;
	km_pv_set_fn *setf;
	km_pv_parse_fn *parse_name;
	km_pv_parse_fn *parse_index;
	void *init_param;
	int iparam;
} km_pv_export;

typedef struct km_module_exports {
	const char *name;
	unsigned int dlflags;
	km_cmd_export *cmds;
	km_param_export *params;
	km_rpc_export *rpc_methods;
	km_pv_export *pv_items;
	km_response_fn *response_f;
	km_init_fn *init_mod_f;
	km_child_init_fn *init_child_f;
	km_destroy_fn *destroy_mod_f;
} km_module_exports;

/* a function for scripts in other languages: it gets the message, and a text for each parameter; a list ends with an empty one */
#define KM_KEMI_PARAMS 6
typedef struct km_kemi {
	km_str mname;
	km_str fname;
	int rtype;
	void *func;
	int ptypes[KM_KEMI_PARAMS];
} km_kemi;
#define KM_KEMI_INT 1
#define KM_KEMI_STR 2

/* ---- symbols of the server that we look up by name ------------------------------------------------------------ */

/* counters */
typedef struct km_counter_handle {
	unsigned short id;
} km_counter_handle;
typedef long km_counter_cbk_fn(km_counter_handle, void *param);
typedef int km_counter_register_fn(km_counter_handle *, const char *group, const char *name, int flags, km_counter_cbk_fn *,
                                   void *param, const char *doc, int reg_flags);
#define KM_CNT_F_NO_RESET 1

typedef void km_any_fn(void);
typedef km_any_fn *km_find_export_fn(const char *name, int param_no, int flags);
typedef km_sr_module *km_find_module_by_name_fn(const char *name);
typedef void *km_find_param_export_fn(km_sr_module *, const char *name, unsigned int type_mask, unsigned int *type); /* the parameter's place */
typedef km_pv_spec *km_pv_cache_get_fn(km_str *name);
typedef int km_pv_get_spec_value_fn(km_sip_msg *, km_pv_spec *, void *value);
typedef int km_pv_parse_format_fn(km_str *in, km_pv_elem **out);
typedef int km_pv_printf_s_fn(km_sip_msg *, km_pv_elem *, km_str *out);
typedef int km_script_cb_fn(km_sip_msg *, unsigned int flags, void *param);
typedef int km_register_script_cb_fn(km_script_cb_fn *, unsigned int flags, void *param);
typedef int km_get_debug_fn(const char *module, int len);
typedef int km_register_procs_fn(int n);
typedef int km_fork_process_fn(int rank, const char *description, int make_sock);
typedef void km_cfg_register_child_fn(int n);
typedef int km_cfg_child_init_fn(void);
typedef int km_kemi_modules_add_fn(km_kemi *list);
typedef km_sip_msg *km_faked_msg_fn(void);
typedef int km_flag_fn(km_sip_msg *, unsigned int flag); /* is it set: 1 or -1; reset it */
typedef int km_route_lookup_fn(void *routes, const char *name);
typedef int km_run_top_route_fn(km_action *, km_sip_msg *, km_run_ctx *);

/* a list of routes, as far as we read it */
typedef struct km_route_list {
	km_action **rlist;
	int idx;
	int entries;
} km_route_list;

#define KM_PRE_SCRIPT_CB 0x40000000u
#define KM_POST_SCRIPT_CB 0x80000000u
#define KM_REQUEST_CB 1u
#define KM_FAILURE_CB 2u
#define KM_ONREPLY_CB 4u
#define KM_BRANCH_FAILURE_CB 256u

/* log levels; one between each two of them differs from OpenSIPS */
#define KM_L_ALERT (-5)
#define KM_L_ERR (-1)
#define KM_L_WARN 0
#define KM_L_NOTICE 1
#define KM_L_INFO 2
#define KM_L_DBG 3

/* ---- tm ------------------------------------------------------------------------------------------------------ */

typedef struct km_tmcb_params {
	km_sip_msg *req; /* shared by all processes, but for REQUEST_IN: not to be read */
	km_sip_msg *rpl; /* (km_sip_msg *)-1: a reply of the server itself */
	void **param;
	int code;
	unsigned short flags;
	unsigned short branch;
	void *t_rbuf;
	void *dst;
	km_str send_buf; /* in RESPONSE_OUT the reply as it was sent */
} km_tmcb_params;

typedef int km_t_get_reply_totag_fn(km_sip_msg *, km_str *tag); /* of the reply that would be sent to it */
typedef int km_t_get_picked_branch_fn(void); /* the branch whose failure wins, below 0: none */
typedef void km_transaction_cb(km_cell *, int type, km_tmcb_params *);
typedef void km_release_fn(void *param);
typedef int km_register_tmcb_fn(km_sip_msg *, km_cell *, int types, km_transaction_cb *, void *param, km_release_fn *);
typedef km_cell *km_t_gett_fn(void); /* NULL: none, (km_cell *)-1: not looked up yet */
typedef int km_load_fn(void *binds);

#define KM_TMCB_REQUEST_IN 0x1
#define KM_TMCB_RESPONSE_IN 0x2
#define KM_TMCB_E2EACK_IN 0x4
#define KM_TMCB_REQUEST_FWDED 0x10
#define KM_TMCB_ON_FAILURE 0x80
#define KM_TMCB_RESPONSE_OUT 0x200
#define KM_TMCB_LOCAL_COMPLETED 0x400
#define KM_TMCB_DESTROY 0x20000
#define KM_TMCB_RESPONSE_READY 0x100000

/* ---- mqueue ---------------------------------------------------------------------------------------------------- */

typedef struct km_mq_api {
	int (*add)(km_str *queue, km_str *key, km_str *value); /* 0: taken */
} km_mq_api;

/* ---- dialog --------------------------------------------------------------------------------------------------- */

typedef struct km_dlg_cb_params {
	km_sip_msg *req;
	km_sip_msg *rpl;
	unsigned int direction;
	void *dlg_data;
	void **param;
} km_dlg_cb_params;

typedef void km_dialog_cb(km_dlg_cell *, int type, km_dlg_cb_params *);

/* what the module offers to others, by name */
typedef int km_register_dlgcb_fn(km_dlg_cell *, int types, km_dialog_cb *, void *param, km_release_fn *);
typedef int km_dlg_variable_fn(km_dlg_cell *, km_str *key, km_str *val); /* set, and get: 0: a copy in a buffer of the host's */
typedef km_dlg_cell *km_get_dlg_fn(km_sip_msg *); /* with a reference, which goes back through release_dlg */
typedef void km_release_dlg_fn(km_dlg_cell *);
typedef km_dlg_cell *km_get_dlg_by_tags_fn(km_str *callid, km_str *ftag, km_str *ttag, unsigned int *direction); /* with a reference */
typedef void km_dlg_ctx_set_fn(km_dlg_cell *); /* which dialog the message at hand has, by its number */
typedef void km_dlg_ctx_reset_fn(void);
typedef km_dlg_cell *km_dlg_ctx_get_fn(void); /* with a reference */
typedef int km_dlg_manage_fn(km_sip_msg *, char *, char *);

#define KM_DLGCB_LOADED 0x1
#define KM_DLGCB_CREATED 0x2
#define KM_DLGCB_FAILED 0x4
#define KM_DLGCB_CONFIRMED_NA 0x8
#define KM_DLGCB_CONFIRMED 0x10
#define KM_DLGCB_REQ_WITHIN 0x20
#define KM_DLGCB_TERMINATED 0x40
#define KM_DLGCB_EXPIRED 0x80
#define KM_DLGCB_DESTROY 0x2000
#define KM_DLGCB_TERMINATED_CONFIRMED 0x8000

#define KM_DLG_DIR_DOWNSTREAM 1
#define KM_DLG_DIR_UPSTREAM 2

/* ---- rr ------------------------------------------------------------------------------------------------------- */

typedef int km_is_direction_fn(km_sip_msg *, int direction); /* 0: yes */
#define KM_RR_FLOW_UPSTREAM 2

/* ---- acc ------------------------------------------------------------------------------------------------------ */

/* The table that other modules have filled by bind_acc (a function without parameters, no script calls it). The first three
 * make a record at once: 1, or -1. The rest is for accounting engines of other modules, of which we know nothing (void); the
 * last four are null where the server writes no CDRs. */
typedef struct km_acc_api {
	int (*acc_log_request)(km_sip_msg *, km_str *comment);
	int (*acc_db_request)(km_sip_msg *, km_str *comment, km_str *table);
	int (*acc_request)(km_sip_msg *, km_str *comment, km_str *table);
	void *(*get_leg_info)(void);
	int (*get_core_attrs)(km_sip_msg *, km_str *texts, int *numbers, char *types); /* how many; the next two as well */
	int (*get_extra_attrs)(void *extra, km_sip_msg *, km_str *texts, int *numbers, char *types);
	int (*get_leg_attrs)(void *legs, km_sip_msg *, km_str *texts, int *numbers, char *types, int is_first);
	void *(*parse_extra)(char *list); /* NULL: failed */
	int (*register_engine)(void *engine); /* below 0: failed */
	int (*exec)(km_sip_msg *, void *engine, void *comment);
	int (*get_core_cdr_attrs)(km_dlg_cell *, km_str *texts, int *numbers, char *types);
	int (*get_extra_dlg_attrs)(void *extra, km_dlg_cell *, km_str *texts, int *numbers, char *types, const void *binds);
	int (*register_cdr_engine)(void *engine); /* below 0: failed */
	int (*exec_cdr)(km_dlg_cell *, km_sip_msg *, void *engine, void *comment);
} km_acc_api;

/* ---- databases ------------------------------------------------------------------------------------------------ */

/* The functions of a database module and their values have the types of database_abi.h (os_db_...). They stand at these
 * offsets of its table, which has less than OS_DB_FUNC_ROOM bytes. */
#define KM_DB_FUNC_USE_TABLE 8
#define KM_DB_FUNC_INIT 16
#define KM_DB_FUNC_CLOSE 32
#define KM_DB_FUNC_INSERT 72

#endif /* KM_KAMAILIO_ABI_H */
