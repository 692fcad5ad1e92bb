/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The part of the OpenSIPS module interface (3.4.7 .. 4.0.x, x86_64) that this module uses, in our own words.
 *
 * Read by bindgen (build.rs) and by the C test host. Nothing here comes from the server's own headers; that it
 * describes them truly is checked by `scripts/check-abi TREE`: sizes, offsets, constants and prototypes.
 *
 * Rules of this file:
 *  - every name begins with os_ or OS_, so that it can be included beside the real headers;
 *  - structures that move between releases stay opaque; what moves and is still needed has one constant per
 *    version row (a row is named after the first release that has it);
 *  - functions are function types (os_..._fn), tables hold pointers to them: we look symbols up by name, we do
 *    not link against them.
 *
 * The checker defines OS_ABI_HOST_TYPES and gives the os_ type names itself, as the real types, to compare the
 * prototypes below with the real ones. A program that plays the host defines OS_ABI_DECLARE_HOST and gets the
 * symbols declared.
 */
#ifndef OS_OPENSIPS_ABI_H
#define OS_OPENSIPS_ABI_H

#include <stddef.h>
#include "database_abi.h"

/* ---- types -------------------------------------------------------------------------------------------------- */

#ifndef OS_ABI_HOST_TYPES

/* never dereferenced */
typedef struct os_sip_msg os_sip_msg;
typedef struct os_cell os_cell;         /* a transaction */
typedef struct os_dlg_cell os_dlg_cell; /* a dialog */
typedef struct os_bin_packet os_bin_packet; /* what nodes of a cluster send each other */
typedef struct os_async_ctx os_async_ctx;
typedef struct os_mi_params os_mi_params;
typedef struct os_mi_response os_mi_response;
typedef struct os_mi_handler os_mi_handler;
typedef struct os_mi_item os_mi_item;
typedef struct os_rr_cb os_rr_cb;
typedef struct os_pv_spec os_pv_spec; /* 104 or 112 bytes, see OS_PV_SPEC_* */
typedef struct os_acmd_export os_acmd_export;
typedef struct os_trans_export os_trans_export;
typedef struct os_mi_export os_mi_export; /* see OS_MI_EXPORT_* */
typedef struct os_sr_module_dep os_sr_module_dep;
typedef struct os_stat_var os_stat_var;

typedef struct os_str_const {
	const char *s;
	int len;
} os_str_const;

/* a number or a string, as its neighbour says */
typedef union os_int_str {
	int n;
	os_str s;
} os_int_str;

/* a parameter of an event */
typedef struct os_evi_param {
	int flags; /* OS_EVI_INT_VAL or OS_EVI_STR_VAL */
	os_int_str val;
	os_str name;
	struct os_evi_param *next;
} os_evi_param;

/* the parameters of an event; the server frees only a list of evi_get_params() */
typedef struct os_evi_params {
	int flags;
	os_evi_param *first;
	os_evi_param *last;
} os_evi_params;

typedef unsigned int os_modparam;    /* OS_STR_PARAM, OS_INT_PARAM, OS_USE_FUNC_PARAM */
typedef int os_event_id;             /* of evi_publish_event(); OS_EVI_ERROR */
typedef unsigned int os_context;     /* OS_CONTEXT_* */
typedef unsigned int os_module_type; /* OS_MOD_TYPE_* */
typedef unsigned int os_pv_type;     /* 1000 and up are free for modules */

typedef struct os_pv_value os_pv_value;
typedef struct os_pv_param os_pv_param;
typedef struct os_tmcb_params os_tmcb_params;
typedef struct os_dlg_cb_params os_dlg_cb_params;
typedef struct os_param_export os_param_export;
typedef struct os_module_dependency os_module_dependency;
typedef struct os_tm_binds os_tm_binds;
typedef struct os_dlg_binds os_dlg_binds;
typedef struct os_rr_binds os_rr_binds;
typedef struct os_module_exports os_module_exports;

#endif /* OS_ABI_HOST_TYPES */

/* ---- prototypes --------------------------------------------------------------------------------------------- */

/* script functions: 1 and up = true, negative = false, 0 = stop the script */
typedef int os_cmd_fn(os_sip_msg *, void *, void *, void *, void *, void *, void *, void *, void *);
typedef int os_fixup_fn(void **param);

/* module life */
typedef int os_load_fn(void);
typedef int os_preinit_fn(void);
typedef int os_init_fn(void);
typedef int os_response_fn(os_sip_msg *);
typedef void os_destroy_fn(void);
typedef int os_child_init_fn(int rank);
typedef int os_reload_ack_fn(void);
typedef int os_proc_hook_fn(void);
typedef void os_proc_main_fn(int no);
typedef int os_param_fn(os_modparam type, void *val);
typedef os_module_dependency *os_get_deps_fn(const os_param_export *param);

/* variables */
typedef int os_pv_get_fn(os_sip_msg *, os_pv_param *, os_pv_value *);
typedef int os_pv_set_fn(os_sip_msg *, os_pv_param *, int op, os_pv_value *);
typedef int os_pv_parse_name_fn(os_pv_spec *, const os_str *in);
typedef int os_pv_parse_index_fn(os_pv_spec *, const os_str *in);
typedef int os_pv_init_param_fn(os_pv_spec *, int param);

/* statistics and management */
typedef unsigned long os_stat_fn(void *context);
typedef os_mi_response *os_mi_cmd_fn(const os_mi_params *, os_mi_handler *);
typedef int os_mi_child_init_fn(void);
typedef os_mi_response *os_init_mi_result_object_fn(os_mi_item **object);
typedef os_mi_item *os_add_mi_item_fn(os_mi_item *to, char *name, int name_len); /* an array, an object */
typedef int os_add_mi_string_fn(os_mi_item *to, char *name, int name_len, const char *value, int value_len);
typedef int os_add_mi_number_fn(os_mi_item *to, char *name, int name_len, double value);

/* contexts */
typedef void os_context_destroy_fn(void *);

/* tm */
typedef void os_transaction_cb(os_cell *, int type, os_tmcb_params *);
typedef void os_release_tmcb_param(void *param);
typedef int os_register_tmcb_fn(os_sip_msg *, os_cell *, int types, os_transaction_cb *, void *param,
                                os_release_tmcb_param *);
typedef int os_t_is_local_fn(os_sip_msg *);
typedef os_cell *os_t_gett_fn(void); /* NULL: none, OS_T_UNDEFINED: not looked up yet */
typedef int os_t_ctx_register_ptr_fn(os_context_destroy_fn *);
typedef void os_t_ctx_put_ptr_fn(os_cell *, int pos, void *data);
typedef void *os_t_ctx_get_ptr_fn(os_cell *, int pos);
typedef int os_load_tm_fn(os_tm_binds *);

/* dialog */
typedef void os_dialog_cb(os_dlg_cell *, int type, os_dlg_cb_params *);
typedef void os_param_free_cb(void *param);
typedef int os_register_dlgcb_fn(os_dlg_cell *, int types, os_dialog_cb *, void *param, os_param_free_cb *);
typedef int os_create_dlg_fn(os_sip_msg *, int flags);
typedef os_dlg_cell *os_get_dlg_fn(void);
typedef int os_store_dlg_value_fn(os_dlg_cell *, os_str *name, os_int_str *val, int type);
typedef int os_fetch_dlg_value_fn(os_dlg_cell *, const os_str *name, int *type, os_int_str *val, int val_has_buf);
typedef void os_ref_dlg_fn(os_dlg_cell *, unsigned int cnt);
typedef int os_get_direction_fn(void);
typedef os_str *os_get_dlg_did_fn(os_dlg_cell *);
typedef os_dlg_cell *os_get_dlg_by_did_fn(os_str *did, int active_only); /* with a reference for the caller */
typedef int os_dlg_ctx_register_ptr_fn(os_context_destroy_fn *);
typedef void os_dlg_ctx_put_ptr_fn(os_dlg_cell *, int pos, void *data);
typedef void *os_dlg_ctx_get_ptr_fn(os_dlg_cell *, int pos);
typedef int os_load_dlg_fn(os_dlg_binds *);

/* clusterer: of its table, found by name; the packets are the core's */
typedef void os_cl_packet_cb(os_bin_packet *);
typedef void os_cl_event_cb(unsigned int event, int node_id);
typedef int os_cl_register_cap_fn(os_str *name, os_cl_packet_cb *, os_cl_event_cb *, int cluster_id, int startup_sync,
                                  unsigned int sync_cond);
typedef int os_cl_send_all_fn(os_bin_packet *, int cluster_id);
typedef int os_cl_send_to_fn(os_bin_packet *, int cluster_id, int node_id);
typedef int os_cl_get_my_id_fn(void);
typedef int os_bin_init_fn(os_bin_packet *, os_str *capability, int packet_type, short version, int length, int use_sysmalloc);
typedef int os_bin_push_str_fn(os_bin_packet *, const os_str *);
typedef int os_bin_pop_str_fn(os_bin_packet *, os_str *);
typedef void os_bin_free_packet_fn(os_bin_packet *);

/* rr */
typedef int os_is_direction_fn(os_sip_msg *, int direction);
typedef int os_load_rr_fn(os_rr_binds *);

/* symbols of the server that we look up by name */
typedef os_cmd_fn *os_find_export_fn(const char *name, int flags);
typedef char *os_pv_parse_spec_fn(const os_str *in, os_pv_spec *);
typedef int os_pv_get_spec_value_fn(os_sip_msg *, os_pv_spec *, os_pv_value *);
typedef int os_context_register_ptr_fn(os_context type, os_context_destroy_fn *);
typedef os_event_id os_evi_publish_event_fn(os_str name);
typedef int os_evi_probe_event_fn(os_event_id);
typedef int os_evi_raise_event_fn(os_event_id, os_evi_params *); /* frees a list of evi_get_params() */
typedef os_evi_params *os_evi_get_params_fn(void);
typedef int os_evi_param_add_fn(os_evi_params *, const os_str *name, const void *value, int flags); /* os_str *, int * */
typedef void os_evi_free_params_fn(os_evi_params *);
typedef int os_get_log_consumer_fn(os_str *name, int *value); /* "stderror", "syslog"; a filter of 0 is none */
typedef int os_user2uid_fn(int *uid, int *gid, char *user);
typedef int os_group2gid_fn(int *gid, char *group);
typedef int os_script_cb_fn(os_sip_msg *, void *param);
typedef int os_register_script_cb_fn(os_script_cb_fn *, int type, void *param, int prio);
typedef int os_message_flag_fn(os_sip_msg *, unsigned int flag); /* isflagset: 1 or -1; resetflag */
typedef int os_get_flag_id_by_name_fn(int type, char *name, int len); /* OS_FLAG_TYPE_MSG; only before the fork */
typedef os_sip_msg *os_get_dummy_sip_msg_fn(void); /* a request that is private to the process */
typedef void os_release_dummy_sip_msg_fn(os_sip_msg *);
typedef int os_is_dummy_sip_msg_fn(os_sip_msg *); /* 0 = it is such a request, or a copy of one */
typedef int os_get_branch_fn(void); /* tm: get_branch_index, t_get_picked_branch */
typedef void os_timer_fn(unsigned int ticks, void *param);
typedef int os_register_timer_fn(char *label, os_timer_fn *, void *param, unsigned int interval, unsigned short flags);

/* ---- constants ---------------------------------------------------------------------------------------------- */

/* script callbacks: when, and what they answer */
#define OS_PRE_SCRIPT_CB 0x1
#define OS_REQ_TYPE_CB 0x4
#define OS_RPL_TYPE_CB 0x8
#define OS_FLAG_TYPE_MSG 0
#define OS_SCB_RUN_ALL 0x3

/* log levels: *log_level says up to which one to print */
#define OS_L_ALERT (-3)
#define OS_L_CRIT (-2)
#define OS_L_ERR (-1)
#define OS_L_WARN 1
#define OS_L_NOTICE 2
#define OS_L_INFO 3
#define OS_L_DBG 4

/* how lines of the log look */
#define OS_LOG_FORMAT_PLAIN 0
#define OS_LOG_FORMAT_JSON 1
#define OS_LOG_FORMAT_JSON_CEE 2

/* route types: os_cmd_export.flags and the last argument of find_export() */
#define OS_REQUEST_ROUTE 1
#define OS_FAILURE_ROUTE 2
#define OS_ONREPLY_ROUTE 4
#define OS_BRANCH_ROUTE 8
#define OS_ERROR_ROUTE 16
#define OS_LOCAL_ROUTE 32
#define OS_STARTUP_ROUTE 64
#define OS_TIMER_ROUTE 128
#define OS_EVENT_ROUTE 256
#define OS_ALL_ROUTES 511

/* os_cmd_param.flags */
#define OS_CMD_PARAM_INT 1
#define OS_CMD_PARAM_STR 2
#define OS_CMD_PARAM_VAR 4
#define OS_CMD_PARAM_REGEX 8
#define OS_CMD_PARAM_OPT 16
#define OS_CMD_PARAM_FIX_NULL 32
#define OS_CMD_PARAM_NO_EXPAND 64
#define OS_CMD_PARAM_STATIC 128
#define OS_MAX_CMD_PARAMS 8

/* os_param_export.type */
#define OS_STR_PARAM 1u
#define OS_INT_PARAM 2u
#define OS_USE_FUNC_PARAM 0x80000000u

/* os_proc_export.flags */
#define OS_PROC_FLAG_INITCHILD 1u
#define OS_PROC_FLAG_HAS_IPC 2u
#define OS_PROC_FLAG_NEEDS_SCRIPT 4u

/* ranks given to child_init; workers are 1 and up */
#define OS_PROC_MAIN 0
#define OS_PROC_TIMER (-1)
#define OS_PROC_MODULE (-2)
#define OS_PROC_TCP_MAIN (-4)

/* kinds of modules, and what becomes of the start when one we need is not there */
#define OS_MOD_TYPE_NULL 0u
#define OS_MOD_TYPE_DEFAULT 1u
#define OS_MOD_TYPE_SQLDB 2u
#define OS_MOD_TYPE_CACHEDB 3u
#define OS_MOD_TYPE_AAA 4u
#define OS_DEP_SILENT 1u
#define OS_DEP_WARN 2u
#define OS_DEP_ABORT 4u
#define OS_MAX_MOD_DEPS 10

/* os_pv_value.flags */
#define OS_PV_VAL_NONE 0
#define OS_PV_VAL_NULL 1
#define OS_PV_VAL_EMPTY 2
#define OS_PV_VAL_STR 4
#define OS_PV_VAL_INT 8
#define OS_PV_TYPE_INT 16
#define OS_PV_VAL_PKG 32
#define OS_PV_VAL_SHM 64

/* os_pv_name.type */
#define OS_PV_NAME_INTSTR 0
#define OS_PV_NAME_PVAR 1

/* os_pv_index.type; 0 = no index given */
#define OS_PV_IDX_PVAR 1
#define OS_PV_IDX_ALL 2
#define OS_PV_IDX_INT 3
#define OS_PV_IDX_APPEND 4

/* os_stat_export.flags */
#define OS_STAT_NO_RESET 1
#define OS_STAT_NO_SYNC 2
#define OS_STAT_SHM_NAME 4
#define OS_STAT_IS_FUNC 8

/* what a timer does when its last run is not over yet */
#define OS_TIMER_FLAG_SKIP_ON_DELAY 2

/* events of a transaction */
#define OS_TMCB_REQUEST_IN 0x1
#define OS_TMCB_RESPONSE_IN 0x2
#define OS_TMCB_REQUEST_FWDED 0x4
#define OS_TMCB_RESPONSE_FWDED 0x8
#define OS_TMCB_ON_FAILURE 0x20
#define OS_TMCB_RESPONSE_PRE_OUT 0x40
#define OS_TMCB_RESPONSE_OUT 0x80
#define OS_TMCB_LOCAL_COMPLETED 0x100
#define OS_TMCB_LOCAL_RESPONSE_OUT 0x200
#define OS_TMCB_REQUEST_BUILT 0x400
#define OS_TMCB_TRANS_CANCELLED 0x800
#define OS_TMCB_TRANS_DELETED 0x1000
#define OS_TMCB_MSG_MATCHED_IN 0x4000
#define OS_TMCB_MSG_SENT_OUT 0x8000
#define OS_TMCB_LOCAL_TRANS_NEW 0x10000
#define OS_TMCB_LOCAL_REQUEST_OUT 0x20000

/* the reply of a transaction that ended without one on the wire, and a transaction nobody looked for yet */
#define OS_FAKED_REPLY ((os_sip_msg *)-1)
#define OS_T_UNDEFINED ((os_cell *)-1)

/* events of a dialog */
#define OS_DLGCB_LOADED 0x1
#define OS_DLGCB_CREATED 0x2
#define OS_DLGCB_FAILED 0x4
#define OS_DLGCB_CONFIRMED 0x8
#define OS_DLGCB_REQ_WITHIN 0x10
#define OS_DLGCB_TERMINATED 0x20
#define OS_DLGCB_EXPIRED 0x40
#define OS_DLGCB_EARLY 0x80
#define OS_DLGCB_RESPONSE_FWDED 0x100
#define OS_DLGCB_RESPONSE_WITHIN 0x200
#define OS_DLGCB_MI_CONTEXT 0x400
#define OS_DLGCB_DESTROY 0x800
#define OS_DLGCB_DB_SAVED 0x1000
#define OS_DLGCB_WRITE_VP 0x2000
#define OS_DLGCB_PROCESS_VARS 0x4000

#define OS_DLG_VAL_TYPE_NONE 0
#define OS_DLG_VAL_TYPE_STR 1
#define OS_DLG_VAL_TYPE_INT 2

#define OS_DLG_DIR_NONE 0
#define OS_DLG_DIR_DOWNSTREAM 1
#define OS_DLG_DIR_UPSTREAM 2

#define OS_RR_FLOW_DOWNSTREAM 1
#define OS_RR_FLOW_UPSTREAM 2

/* events for the outside */
#define OS_EVI_ERROR (-1)
#define OS_EVI_INT_VAL 1
#define OS_EVI_STR_VAL 2

/* contexts: first index of type_offsets, type_sizes; and the kinds of values in them: the second index */
#define OS_CONTEXT_GLOBAL 0
#define OS_CONTEXT_TRAN 1
#define OS_CONTEXT_DIALOG 2
#define OS_CONTEXT_B2B_LOGIC 3
#define OS_CONTEXT_COUNT 4
#define OS_CONTEXT_INT_TYPE 0
#define OS_CONTEXT_STR_TYPE 1
#define OS_CONTEXT_PTR_TYPE 2
#define OS_CONTEXT_COUNT_TYPE 3

/* ---- what moves, one line per version row ------------------------------------------------------------------- */

/* struct _pv_spec: its parameter stays in place, its size does not */
#define OS_PV_SPEC_TYPE 0
#define OS_PV_SPEC_GETF 8
#define OS_PV_SPEC_SETF 16
#define OS_PV_SPEC_PVP 24
#define OS_PV_SPEC_SIZE_3_4_7 104
#define OS_PV_SPEC_SIZE_3_6_7 112
#define OS_PV_SPEC_ROOM 256 /* what we reserve for one */

/* struct tm_binds: register_int, register_str, register_ptr, put_int, put_str, put_ptr, get_int, get_str, get_ptr;
 * the offset is that of register_ptr, put_ptr and get_ptr stand 3 and 6 pointers after it */
#define OS_TM_T_CTX_REGISTER_PTR_3_4_7 304
#define OS_TM_T_CTX_REGISTER_PTR_3_6_7 312
#define OS_TM_T_CTX_PUT_PTR 24
#define OS_TM_T_CTX_GET_PTR 48
#define OS_BINDS_ROOM 1024 /* what we reserve for a table; the largest has some 370 bytes */
#define OS_BIN_PACKET_ROOM 256

/* enum clusterer_event */
#define OS_CLUSTER_NODE_UP 0
#define OS_CLUSTER_NODE_DOWN 1

/* struct sr_module: the link to the next one */
#define OS_SR_MODULE_NEXT_3_4_7 56
#define OS_SR_MODULE_NEXT_3_6_0 64

/* struct mi_export_: 4.0 has more parameters per recipe, and aliases at the end */
#define OS_MI_EXPORT_NAME 0
#define OS_MI_EXPORT_HELP 8
#define OS_MI_EXPORT_FLAGS 16
#define OS_MI_EXPORT_INIT_F 24
#define OS_MI_EXPORT_RECIPES 32 /* the first: command, then the names of its parameters */
#define OS_MI_EXPORT_SIZE_3_4_7 4256
#define OS_MI_EXPORT_SIZE_4_0_0 8128
#define OS_MI_RECIPE_SIZE_3_4_7 88
#define OS_MI_RECIPE_SIZE_4_0_0 168

/* struct acmd_export_, in case somebody wants to walk one */
#define OS_ACMD_EXPORT_SIZE 232

/* ---- structures --------------------------------------------------------------------------------------------- */

#ifndef OS_ABI_HOST_TYPES

/* which source the server was built from */
typedef struct os_scm_version {
	const char *type;
	const char *rev;
} os_scm_version;

typedef struct os_cmd_param {
	int flags; /* OS_CMD_PARAM_*; 0 ends the list */
	os_fixup_fn *fixup;
	os_fixup_fn *free_fixup;
} os_cmd_param;

typedef struct os_cmd_export {
	const char *name; /* NULL ends the array */
	os_cmd_fn *function;
	os_cmd_param params[OS_MAX_CMD_PARAMS + 1];
	int flags; /* routes it may be called from */
} os_cmd_export;

struct os_param_export {
	const char *name; /* NULL ends the array */
	os_modparam type;
	void *param_pointer; /* char **, int *, or os_param_fn * */
};

struct os_pv_value {
	os_str rs;
	int ri;
	int flags;
};

typedef struct os_pv_name {
	int type; /* OS_PV_NAME_* */
	union {
		struct {
			int type;
			os_int_str name;
		} isname;
		void *dname; /* os_pv_spec * */
	} u;
} os_pv_name;

typedef struct os_pv_index {
	int type; /* OS_PV_IDX_* */
	union {
		int ival;
		void *dval; /* os_pv_spec * */
	} u;
} os_pv_index;

/* the host has more behind these two, in another place from 3.6.7 on: never copy or make one */
struct os_pv_param {
	os_pv_name pvn;
	os_pv_index pvi;
};

typedef struct os_pv_export {
	os_str_const name; /* NULL ends the array */
	os_pv_type type;
	os_pv_get_fn *getf;
	os_pv_set_fn *setf;
	os_pv_parse_name_fn *parse_name;
	os_pv_parse_index_fn *parse_index;
	os_pv_init_param_fn *init_param;
	int iparam;
} os_pv_export;

typedef struct os_proc_export {
	const char *name; /* NULL ends the array */
	os_proc_hook_fn *pre_fork;
	os_proc_hook_fn *post_fork;
	os_proc_main_fn *function;
	unsigned int no;
	unsigned int flags;
} os_proc_export;

struct os_module_dependency {
	os_module_type mod_type; /* OS_MOD_TYPE_NULL ends the array */
	char *mod_name;
	unsigned int type; /* OS_DEP_* */
};

typedef struct os_modparam_dependency {
	char *script_param; /* NULL ends the array */
	os_get_deps_fn *get_deps;
} os_modparam_dependency;

/* the host reads the second array up to its end mark: a table of ours has one element there */
typedef struct os_dep_export {
	os_module_dependency md[OS_MAX_MOD_DEPS];
	os_modparam_dependency mpd[1];
} os_dep_export;

typedef struct os_stat_export {
	char *name; /* NULL ends the array */
	unsigned short flags;
	os_stat_var **stat_pointer; /* with OS_STAT_IS_FUNC: an os_stat_fn * */
} os_stat_export;

/* what a module's symbol `exports` is */
struct os_module_exports {
	const char *name;
	os_module_type type;
	struct {
		const char *version;
		const char *compile_flags;
		os_scm_version scm;
	} ver_info;
	unsigned int dlflags;
	os_load_fn *load_f;
	const os_dep_export *deps;
	const os_cmd_export *cmds;
	const os_acmd_export *acmds;
	const os_param_export *params;
	const os_stat_export *stats;
	const os_mi_export *mi_cmds;
	const os_pv_export *items;
	const os_trans_export *trans;
	const os_proc_export *procs;
	os_preinit_fn *preinit_f;
	os_init_fn *init_f;
	os_response_fn *response_f;
	os_destroy_fn *destroy_f;
	os_child_init_fn *init_child_f;
	os_reload_ack_fn *reload_ack_f;
};

/* one loaded module, up to its exports; the link to the next one is at OS_SR_MODULE_NEXT_* */
typedef struct os_sr_module {
	const char *path;
	void *handle;
	int init_done;
	int init_child_done;
	int destroy_done;
	const os_module_exports *exports;
} os_sr_module;

struct os_tmcb_params {
	os_sip_msg *req;
	os_sip_msg *rpl; /* may be OS_FAKED_REPLY */
	int code;
	void **param;
	void *extra1;
	void *extra2;
};

struct os_dlg_cb_params {
	os_sip_msg *msg;
	unsigned int direction; /* OS_DLG_DIR_* */
	int dst_leg;
	unsigned int is_active; /* does this node own the dialog */
	void *dlg_data;
	void **param;
};

/* the head of tm's table; the rest by offset (OS_TM_*) */
struct os_tm_binds {
	os_register_tmcb_fn *register_tmcb;
	void *others1[6];
	os_t_is_local_fn *t_is_local;
	void *others2[13];
	os_t_gett_fn *t_gett;
};

struct os_dlg_binds {
	os_register_dlgcb_fn *register_dlgcb;
	os_create_dlg_fn *create_dlg;
	os_get_dlg_fn *get_dlg;
	void *others1[5];
	os_store_dlg_value_fn *store_dlg_value;
	os_fetch_dlg_value_fn *fetch_dlg_value;
	void *others2[6];
	os_ref_dlg_fn *dlg_ref;
	os_ref_dlg_fn *dlg_unref;
	os_get_direction_fn *get_direction;
	os_get_dlg_did_fn *get_dlg_did;
	os_get_dlg_by_did_fn *get_dlg_by_did;
	void *others3[6];
	os_dlg_ctx_register_ptr_fn *dlg_ctx_register_ptr;
	void *others4[2];
	os_dlg_ctx_put_ptr_fn *dlg_ctx_put_ptr;
	void *others5[2];
	os_dlg_ctx_get_ptr_fn *dlg_ctx_get_ptr;
};

struct os_rr_binds {
	void *others1[2];
	os_is_direction_fn *is_direction;
	void *others2[6];
	int append_fromtag;
};

#endif /* OS_ABI_HOST_TYPES */

/* ---- symbols of the server ---------------------------------------------------------------------------------- */

#ifdef OS_ABI_DECLARE_HOST
extern const os_scm_version core_scm_ver;
extern os_sr_module *modules;
extern int *log_level;
extern char *log_prefix;
extern char *log_name;
extern int log_facility;
extern unsigned stderr_log_format; /* OS_LOG_FORMAT_* */
extern unsigned syslog_log_format;
extern os_get_log_consumer_fn get_log_consumer_mute_state;
extern os_get_log_consumer_fn get_log_consumer_level_filter;
extern int process_no;
extern int config_check;
extern char *user;
extern char *group;
extern char *db_default_url;
extern void *current_processing_ctx;
extern unsigned int context_sizes[OS_CONTEXT_COUNT];
extern unsigned int type_sizes[OS_CONTEXT_COUNT][OS_CONTEXT_COUNT_TYPE];
extern unsigned int type_offsets[OS_CONTEXT_COUNT][OS_CONTEXT_COUNT_TYPE];
extern os_find_export_fn find_export;
extern os_pv_parse_spec_fn pv_parse_spec;
extern os_pv_get_spec_value_fn pv_get_spec_value;
extern os_context_register_ptr_fn context_register_ptr;
extern os_evi_publish_event_fn evi_publish_event;
extern os_evi_probe_event_fn evi_probe_event;
extern os_evi_raise_event_fn evi_raise_event;
extern os_evi_get_params_fn evi_get_params;
extern os_evi_param_add_fn evi_param_add;
extern os_evi_free_params_fn evi_free_params;
extern os_register_timer_fn register_timer;
extern os_register_script_cb_fn __register_script_cb;
extern os_message_flag_fn isflagset;
extern os_message_flag_fn resetflag;
extern os_get_flag_id_by_name_fn get_flag_id_by_name;
extern os_get_dummy_sip_msg_fn get_dummy_sip_msg;
extern os_release_dummy_sip_msg_fn release_dummy_sip_msg;
extern os_is_dummy_sip_msg_fn is_dummy_sip_msg;
extern os_init_mi_result_object_fn init_mi_result_object;
extern os_add_mi_item_fn add_mi_array;
extern os_add_mi_item_fn add_mi_object;
extern os_add_mi_string_fn add_mi_string;
extern os_add_mi_number_fn add_mi_number;
extern os_user2uid_fn user2uid;
extern os_group2gid_fn group2gid;
extern os_db_bind_mod_fn db_bind_mod;
#endif

#endif /* OS_OPENSIPS_ABI_H */
