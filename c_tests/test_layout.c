/* SPDX-License-Identifier: GPL-2.0-or-later
 * The layouts that the interface header must have on x86_64, and those of the module's own C header when it is given. */
#include "opensips_abi.h"

#include <stdio.h>
#if __has_include("acc.h")
#include "acc.h"
#endif

static int n, bad;
#define IS(what, is, must) \
	do { long i_ = (long)(is), m_ = (long)(must); n++; bad += i_ != m_; \
	     printf("%sok %d - %s is %ld%s", i_ == m_ ? "" : "not ", n, what, m_, i_ == m_ ? "\n" : ""); if (i_ != m_) printf(", not %ld\n", i_); } while (0)
#define SIZE(t, must) IS("sizeof " #t, sizeof(t), must)
#define AT(t, f, must) IS(#t "." #f, offsetof(t, f), must)

int main(void)
{
	SIZE(os_module_exports, 184);
	AT(os_module_exports, type, 8);
	AT(os_module_exports, ver_info, 16);
	AT(os_module_exports, dlflags, 48);
	AT(os_module_exports, load_f, 56);
	AT(os_module_exports, deps, 64);
	AT(os_module_exports, procs, 128);
	AT(os_module_exports, reload_ack_f, 176);
	SIZE(os_cmd_export, 240);
	AT(os_cmd_export, params, 16);
	AT(os_cmd_export, flags, 232);
	SIZE(os_param_export, 24);
	SIZE(os_pv_export, 72);
	SIZE(os_pv_value, 24);
	SIZE(os_pv_name, 32);
	SIZE(os_pv_index, 16);
	AT(os_pv_param, pvi, 32);
	SIZE(os_proc_export, 40);
	SIZE(os_stat_export, 24);
	SIZE(os_scm_version, 16);
	SIZE(os_module_dependency, 24);
	AT(os_dep_export, mpd, 240);
	AT(os_sr_module, exports, 32);
	SIZE(os_tmcb_params, 48);
	AT(os_tmcb_params, code, 16);
	AT(os_tmcb_params, param, 24);
	SIZE(os_dlg_cb_params, 40);
	AT(os_dlg_cb_params, param, 32);
	SIZE(os_dlg_binds, 272);
	AT(os_dlg_binds, store_dlg_value, 64);
	AT(os_dlg_binds, dlg_ctx_register_ptr, 216);
	AT(os_dlg_binds, dlg_ctx_get_ptr, 264);
	AT(os_tm_binds, t_is_local, 56);
	AT(os_tm_binds, t_gett, 168);
	AT(os_rr_binds, is_direction, 16);
	AT(os_rr_binds, append_fromtag, 72);
	SIZE(os_db_val, 32);
	AT(os_db_val, val, 16);
	AT(os_db_func, insert, 64);
	printf("1..%d\n", n);
	return bad != 0;
}
