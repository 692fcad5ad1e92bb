/* SPDX-License-Identifier: GPL-2.0-or-later
 * What the real server exports to modules, and how it loads, orders, starts and ends them. */
#include "host.h"

#include <dlfcn.h>
#include <sched.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- symbols of the server ---- */
struct version version;
static int first_log_level = OS_L_INFO;
os_scm_version const core_scm_ver = {"git", "1a2b3c4d5"};
os_sr_module *modules;
int *log_level = &first_log_level;
char *log_prefix = (char *)"";
char *log_name;
int log_facility = 24; /* LOG_DAEMON */
unsigned stderr_log_format, syslog_log_format;
static bool stderr_enabled = true, syslog_enabled;
int process_no;
int config_check;
char *db_default_url;
void *current_processing_ctx;
unsigned int context_sizes[OS_CONTEXT_COUNT];
unsigned int type_sizes[OS_CONTEXT_COUNT][OS_CONTEXT_COUNT_TYPE];
unsigned int type_offsets[OS_CONTEXT_COUNT][OS_CONTEXT_COUNT_TYPE];

int current_route;
const char *process_name = "attendant";
struct settings settings;

/* ---- version ---- */
int version_set(const char *text)
{
	static const char *flags34 = "STATS: On, DISABLE_NAGLE, USE_MCAST, SHM_MMAP, PKG_MALLOC, Q_MALLOC, F_MALLOC, HP_MALLOC, DBG_MALLOC, "
	                             "FAST_LOCK-ADAPTIVE_WAIT";
	static const char *flags36 = "STATS: On, DISABLE_NAGLE, USE_MCAST, SHM_MMAP, PKG_MALLOC, Q_MALLOC, F_MALLOC, HP_MALLOC, "
	                             "F_PARALLEL_MALLOC, DBG_MALLOC, FAST_LOCK-ADAPTIVE_WAIT";
	char tail[16] = "";
	int n = sscanf(text, "%d.%d.%d%15s", &version.major, &version.minor, &version.sub, tail);

	if (n < 3)
		return -1;
	version.row = version.major * 10000 + version.minor * 100 + version.sub;
	snprintf(version.full, sizeof version.full, "opensips %d.%d.%d%s (x86_64/linux)", version.major, version.minor, version.sub, tail);
	version.flags = version.row >= 30600 ? flags36 : flags34;
	version.t_ctx = version.row >= 30607 ? OS_TM_T_CTX_REGISTER_PTR_3_6_7 : OS_TM_T_CTX_REGISTER_PTR_3_4_7;
	version.spec_size = version.row >= 30607 ? OS_PV_SPEC_SIZE_3_6_7 : OS_PV_SPEC_SIZE_3_4_7;
	version.next = version.row >= 30600 ? OS_SR_MODULE_NEXT_3_6_0 : OS_SR_MODULE_NEXT_3_4_7;
	return 0;
}

/* ---- log ---- */
int get_log_consumer_mute_state(os_str *name, int *state)
{
	bool is_syslog = name->len == 6 && !memcmp(name->s, "syslog", 6);

	if (!is_syslog && (name->len != 8 || memcmp(name->s, "stderror", 8)))
		return -1;
	*state = is_syslog ? !syslog_enabled : !stderr_enabled;
	return 0;
}

int get_log_consumer_level_filter(os_str *name, int *filter)
{
	(void)name;
	*filter = 0;
	return 0;
}

void host_log(int level, const char *fmt, ...)
{
	static const char *const name[] = {"ALERT", "CRITICAL", "ERROR", "", "WARNING", "NOTICE", "INFO", "DBG"};
	char line[8192], when[32];
	int n;
	time_t now = time(NULL);
	struct tm tm;
	va_list ap;

	if (level > *log_level || !stderr_enabled)
		return;
	localtime_r(&now, &tm);
	strftime(when, sizeof when, "%b %e %H:%M:%S", &tm);
	n = snprintf(line, sizeof line, "%s [%d] %s:core: ", when, (int)getpid(), name[level + 3]);
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof line - (size_t)n - 2, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof line - 2)
		n = (int)sizeof line - 2;
	line[n++] = '\n';
	if (write(2, line, (size_t)n) < 0)
		return;
}

void host_abort(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	dprintf(2, "HOST ABORT in %s: %s\n", process_name, text);
	abort();
}

/* ---- contexts ---- */
#define MAX_DESTROY 32
static os_context_destroy_fn *destroy_fn[OS_CONTEXT_COUNT][MAX_DESTROY];

int context_register_ptr(os_context kind, os_context_destroy_fn *f)
{
	if (kind >= OS_CONTEXT_COUNT || type_sizes[kind][OS_CONTEXT_PTR_TYPE] == MAX_DESTROY)
		host_abort("context_register_ptr(%u)", kind);
	if (S->status != ST_STARTING)
		host_abort("context_register_ptr() after the start");
	context_sizes[kind] += sizeof(void *);
	destroy_fn[kind][type_sizes[kind][OS_CONTEXT_PTR_TYPE]] = f;
	return (int)type_sizes[kind][OS_CONTEXT_PTR_TYPE]++;
}

/* somebody registers a number: every pointer behind it moves, and may well not be aligned any more */
static void context_register_int(os_context kind)
{
	context_sizes[kind] += sizeof(int);
	type_offsets[kind][OS_CONTEXT_STR_TYPE] += sizeof(int);
	type_offsets[kind][OS_CONTEXT_PTR_TYPE] += sizeof(int);
	type_sizes[kind][OS_CONTEXT_INT_TYPE]++;
}

void *context_get_ptr(os_context kind, void *ctx, int pos)
{
	void *v;

	if (pos < 0 || (unsigned)pos >= type_sizes[kind][OS_CONTEXT_PTR_TYPE])
		host_abort("context %u has no pointer %d", kind, pos);
	memcpy(&v, (char *)ctx + type_offsets[kind][OS_CONTEXT_PTR_TYPE] + (size_t)pos * sizeof v, sizeof v);
	return v;
}

void context_put_ptr(os_context kind, void *ctx, int pos, void *v)
{
	if (pos < 0 || (unsigned)pos >= type_sizes[kind][OS_CONTEXT_PTR_TYPE])
		host_abort("context %u has no pointer %d", kind, pos);
	memcpy((char *)ctx + type_offsets[kind][OS_CONTEXT_PTR_TYPE] + (size_t)pos * sizeof v, &v, sizeof v);
}

/* as the real one: each set pointer goes to its destroy function; the memory and the pointers stay */
void context_destroy_values(os_context kind, void *ctx)
{
	for (unsigned i = 0; i < type_sizes[kind][OS_CONTEXT_PTR_TYPE]; i++) {
		void *v = destroy_fn[kind][i] ? context_get_ptr(kind, ctx, (int)i) : NULL;
		if (v)
			destroy_fn[kind][i](v);
	}
}

/* the context of the message in work: one block per process, used again for each message */
static void *message_ctx;

void context_begin(void)
{
	if (!message_ctx)
		message_ctx = malloc(context_sizes[OS_CONTEXT_GLOBAL]);
	memset(message_ctx, 0, context_sizes[OS_CONTEXT_GLOBAL]);
	current_processing_ctx = message_ctx;
}

void context_end(void)
{
	if (!current_processing_ctx) {
		message_ctx = NULL;
		return;
	}
	context_destroy_values(OS_CONTEXT_GLOBAL, message_ctx);
	current_processing_ctx = NULL;
}

void *context_push(void)
{
	void *old = current_processing_ctx;

	current_processing_ctx = calloc(1, context_sizes[OS_CONTEXT_GLOBAL]);
	return old;
}

void context_pop(void *old)
{
	if (current_processing_ctx) {
		context_destroy_values(OS_CONTEXT_GLOBAL, current_processing_ctx);
		free(current_processing_ctx);
	}
	current_processing_ctx = old;
}

/* ---- modules ---- */
static os_sr_module *next_of(os_sr_module *m)
{
	return *(os_sr_module **)((char *)m + version.next);
}

/* as many commands as it takes to see where the second one begins */
static void one_command(char *at, const char *name)
{
	os_mi_child_init_fn *none = NULL;
	os_init_mi_result_object_fn *any = init_mi_result_object;

	memcpy(at + OS_MI_EXPORT_NAME, &name, sizeof name);
	memcpy(at + OS_MI_EXPORT_INIT_F, &none, sizeof none);
	memcpy(at + OS_MI_EXPORT_RECIPES, &any, sizeof any);
}

static const os_mi_export *commands(void)
{
	static _Alignas(16) char table[3 * OS_MI_EXPORT_SIZE_4_0_0];
	size_t size = version.row >= 40000 ? OS_MI_EXPORT_SIZE_4_0_0 : OS_MI_EXPORT_SIZE_3_4_7;

	if (odd("commands"))
		size += 8;
	one_command(table, "t_first");
	one_command(table + size, "t_second");
	return (os_mi_export *)table;
}

bool odd(const char *what)
{
	return !strcmp(settings.odd, what);
}

static os_module_exports *with_version(const os_module_exports *e)
{
	os_module_exports *c = malloc(sizeof *c);

	*c = *e;
	if (e == &tm_exports)
		c->mi_cmds = commands();
	c->ver_info.version = version.full;
	c->ver_info.compile_flags = version.flags;
	c->ver_info.scm = core_scm_ver;
	return c;
}

static const os_cmd_export *command(const char *name, int flags)
{
	for (os_sr_module *m = modules; m; m = next_of(m))
		for (const os_cmd_export *c = m->exports->cmds; c && c->name; c++)
			if (!strcmp(c->name, name) && (c->flags & flags) == flags)
				return c;
	return NULL;
}

os_cmd_fn *find_export(const char *name, int flags)
{
	const os_cmd_export *c = command(name, flags);

	return c ? c->function : NULL;
}

static void add_module(const os_module_exports *e, const char *path, void *handle)
{
	os_sr_module *m = calloc(1, 128);

	m->path = path;
	m->handle = handle;
	m->exports = e;
	*(os_sr_module **)((char *)m + version.next) = modules;
	modules = m;
	pv_register(e->items);
}

static bool version_fits(const os_module_exports *e)
{
	const char *rev = e->ver_info.scm.rev;
	size_t n;

	if (!e->ver_info.version || !e->ver_info.compile_flags || !e->ver_info.scm.type || !rev) {
		host_log(OS_L_CRIT, "BUG - version, flags or revision not defined in module <%s>", e->name);
		return false;
	}
	if (strcmp(version.full, e->ver_info.version)) {
		host_log(OS_L_CRIT, "module version mismatch for %s; core: %s; module: %s", e->name, version.full, e->ver_info.version);
		return false;
	}
	if (strcmp(version.flags, e->ver_info.compile_flags)) {
		host_log(OS_L_CRIT, "module compile flags mismatch for %s core: %s module: %s", e->name, version.flags, e->ver_info.compile_flags);
		return false;
	}
	if (strcmp(core_scm_ver.type, e->ver_info.scm.type)) {
		host_log(OS_L_CRIT, "module version control system type mismatch for %s core: %s module: %s", e->name, core_scm_ver.type,
		         e->ver_info.scm.type);
		return false;
	}
	n = strlen(rev) < strlen(core_scm_ver.rev) ? strlen(rev) : strlen(core_scm_ver.rev);
	if (strncmp(core_scm_ver.rev, rev, n)) {
		host_log(OS_L_CRIT, "module version control system revision mismatch for %s core: %s module: %s", e->name, core_scm_ver.rev, rev);
		return false;
	}
	return true;
}

static int load_module(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW);
	const os_module_exports *e;

	if (!handle) {
		LM_ERR("could not open module <%s>: %s", path, dlerror());
		return -1;
	}
	e = dlsym(handle, "exports");
	if (!e) {
		LM_ERR("load_module: %s", dlerror());
		return -1;
	}
	if (!version_fits(e))
		exit(1);
	if (e->load_f && e->load_f() < 0) {
		LM_ERR("could not initialize module %s", path);
		return -1;
	}
	add_module(e, path, handle);
	return 0;
}

/* the module under test is the last one that is not ours */
static os_sr_module *tested(void)
{
	for (os_sr_module *m = modules; m; m = next_of(m))
		if (m->handle)
			return m;
	return NULL;
}

#define MAX_NEEDS 64
static struct need {
	os_sr_module *of, *other;
	os_module_dependency d;
	const char *param;
} need[MAX_NEEDS];
static int needs;

static void add_need(os_sr_module *of, os_module_dependency d, const char *param)
{
	if (needs == MAX_NEEDS)
		host_abort("too many dependencies");
	need[needs++] = (struct need){of, NULL, d, param};
}

static int set_param(os_sr_module *m, const char *name, os_modparam type, char *text, long number)
{
	bool named = false;

	for (const os_param_export *p = m->exports->params; p && p->name; p++) {
		if (strcmp(p->name, name))
			continue;
		named = true;
		if (!(p->type & ~OS_USE_FUNC_PARAM & type))
			continue;
		if (p->type & OS_USE_FUNC_PARAM) {
			os_param_fn *f;
			*(void **)&f = p->param_pointer;
			if (f(type, type == OS_STR_PARAM ? (void *)text : (void *)number) < 0)
				return -4;
		} else if (type == OS_STR_PARAM) {
			*(char **)p->param_pointer = strdup(text);
		} else {
			*(int *)p->param_pointer = (int)number;
		}
		for (const os_modparam_dependency *d = m->exports->deps ? m->exports->deps->mpd : NULL; d && d->script_param; d++) {
			os_module_dependency *list = strcmp(d->script_param, name) ? NULL : d->get_deps(p);
			for (; list && list->mod_type != OS_MOD_TYPE_NULL; list++)
				add_need(m, *list, name);
		}
		return 0;
	}
	if (named)
		LM_ERR("type mismatch for parameter <%s> in module <%s>", name, m->exports->name);
	else
		LM_ERR("parameter <%s> not found in module <%s>", name, m->exports->name);
	return -3;
}

int core_load(void)
{
	os_sr_module *m;
	int errors = 0;

	first_log_level = settings.log_level;
	stderr_enabled = settings.to_stderr;
	syslog_enabled = settings.to_syslog;
	log_name = (char *)"host";
	if (settings.db_default_url[0])
		db_default_url = settings.db_default_url;
	/* the core itself has numbers in the contexts */
	context_register_int(OS_CONTEXT_GLOBAL);
	context_register_int(OS_CONTEXT_TRAN);
	context_register_int(OS_CONTEXT_DIALOG); /* not later: restored dialogs have values before all modules are ready */

	if (!settings.foreign)
		add_module(with_version(&first_exports), "proto_udp", NULL);
	if (settings.tm)
		add_module(with_version(&tm_exports), "tm", NULL);
	if (settings.rr)
		add_module(with_version(&rr_exports), "rr", NULL);
	if (settings.dialog && settings.dialog_first)
		add_module(with_version(&dialog_exports), "dialog", NULL);
	if (load_module(settings.module) < 0) {
		LM_ERR("failed to load module");
		errors++;
	}
	if (settings.dialog && !settings.dialog_first)
		add_module(with_version(&dialog_exports), "dialog", NULL);
	m = tested();
	for (int i = 0; m && i < settings.params; i++) {
		if (set_param(m, settings.param[i].name, settings.param[i].string ? OS_STR_PARAM : OS_INT_PARAM, settings.param[i].text,
		              settings.param[i].number) != 0) {
			LM_ERR("Can't set module parameter \"%s\"", settings.param[i].name);
			errors++;
		}
	}
	for (struct route *r = scenario.routes; m && r; r = r->next)
		if (route_in_force(r) && route_compile(r, false) < 0)
			errors++;
	if (errors) {
		LM_ERR("bad config file (%d errors)", errors);
		return -1;
	}
	return 0;
}

static int init_one(os_sr_module *m, bool alone)
{
	if (!m)
		return 0;
	if (!alone && init_one(next_of(m), false) < 0)
		return -1;
	if (m->init_done)
		return 0;
	for (int i = 0; i < needs; i++)
		if (need[i].of == m && need[i].other && !need[i].other->init_done && init_one(need[i].other, true) < 0)
			return -1;
	if (m->init_done)
		return 0;
	if (m->exports->init_f && m->exports->init_f() != 0) {
		LM_ERR("failed to initialize module %s", m->exports->name);
		return -1;
	}
	m->init_done = 1;
	return 0;
}

int core_init(void)
{
	for (os_sr_module *m = modules; m; m = next_of(m))
		for (const os_module_dependency *d = m->exports->deps ? m->exports->deps->md : NULL; d && d->mod_type != OS_MOD_TYPE_NULL; d++)
			add_need(m, *d, NULL);
	for (int i = 0; i < needs; i++) {
		const char *name = need[i].d.mod_name;

		for (os_sr_module *m = modules; m && !need[i].other; m = next_of(m))
			if (m != need[i].of && (name && *name ? !strcmp(m->exports->name, name) : m->exports->type == need[i].d.mod_type))
				need[i].other = m;
		if (need[i].other || need[i].d.type & OS_DEP_SILENT)
			continue;
		LM_WARN("module %s depends on module %s%s%s, but it was not loaded!", need[i].of->exports->name, name && *name ? name : "of a type",
		        need[i].param ? " due to modparam " : "", need[i].param ? need[i].param : "");
		if (need[i].d.type & OS_DEP_ABORT) {
			LM_ERR("failed to solve module dependencies");
			return -1;
		}
	}
	for (os_sr_module *m = modules; m; m = next_of(m)) {
		if (m->exports->preinit_f && m->exports->preinit_f() < 0) {
			LM_ERR("could not pre-initialize module %s!", m->exports->name);
			return -1;
		}
	}
	if (init_one(modules, false) < 0) {
		LM_ERR("error while initializing modules");
		return -1;
	}
	/* modules that come later have numbers in the contexts too: positions stay, offsets move */
	context_register_int(OS_CONTEXT_GLOBAL);
	context_register_int(OS_CONTEXT_GLOBAL);
	for (struct route *r = scenario.routes; r; r = r->next) {
		if (route_in_force(r) && route_compile(r, true) < 0) {
			LM_ERR("failed to fix configuration with err code -1");
			return -1;
		}
	}
	S->log_level_value = *log_level; /* from here on levels are per process, in shared memory */
	log_level = &S->log_level_value;
	return 0;
}

static int init_child_one(os_sr_module *m, int rank, bool alone)
{
	if (!m)
		return 0;
	if (!alone && init_child_one(next_of(m), rank, false) < 0)
		return -1;
	if (m->init_child_done)
		return 0;
	for (int i = 0; i < needs; i++)
		if (need[i].of == m && need[i].other && init_child_one(need[i].other, rank, true) < 0)
			return -1;
	if (m->init_child_done)
		return 0;
	if (m->exports->init_child_f && m->exports->init_child_f(rank) < 0) {
		LM_ERR("failed to initializing module %s, rank %d", m->exports->name, rank);
		return -1;
	}
	m->init_child_done = 1;
	return 0;
}

int core_init_child(int rank)
{
	return init_child_one(modules, rank, false);
}

int core_run_procs(void (*forked)(pid_t pid, const char *name))
{
	int no = process_no;

	for (os_sr_module *m = modules; m; m = next_of(m)) {
		for (const os_proc_export *p = m->exports->procs; p && p->name; p++) {
			if (!p->no || !p->function)
				continue;
			if (p->pre_fork && p->pre_fork() != 0) {
				LM_ERR("pre-fork function failed for process \"%s\"", p->name);
				return -1;
			}
			for (unsigned i = 0; i < p->no; i++) {
				pid_t pid = fork();

				no++;
				if (pid < 0)
					return -1;
				if (pid == 0) {
					process_no = no;
					process_name = p->name;
					forked(0, p->name);
					if (p->flags & OS_PROC_FLAG_INITCHILD && core_init_child(OS_PROC_MODULE) < 0) {
						LM_ERR("error in init_child for PROC_MODULE");
						exit(255);
					}
					p->function((int)i);
					exit(0);
				}
				forked(pid, p->name);
			}
			if (p->post_fork && p->post_fork() != 0) {
				LM_ERR("post-fork function failed for process \"%s\"", p->name);
				return -1;
			}
		}
	}
	process_no = 0;
	return no;
}

static void destroy_one(os_sr_module *m, bool alone)
{
	if (!m)
		return;
	if (!alone)
		destroy_one(next_of(m), false);
	if (m->destroy_done)
		return;
	for (int i = 0; i < needs; i++) /* whoever needs this one goes first */
		if (need[i].other == m && !need[i].of->destroy_done)
			destroy_one(need[i].of, true);
	if (m->destroy_done)
		return;
	if (m->init_done && m->exports->destroy_f)
		m->exports->destroy_f();
	m->destroy_done = 1;
}

void core_destroy(void)
{
	destroy_one(modules, false);
}

/* a statistic that a module exports as a function, or a number that its own C interface tells */
static long one_stat(const char *name)
{
	os_sr_module *m = tested();
	uint64_t (*own)(void);
	long value = -1;

	*(void **)&own = m && !strncmp(name, "acc_", 4) ? dlsym(m->handle, name) : NULL;
	if (own)
		value = (long)own();
	for (const os_stat_export *s = m ? m->exports->stats : NULL; s && s->name; s++) {
		if (!strcmp(s->name, name) && s->flags & OS_STAT_IS_FUNC) {
			os_stat_fn *f;
			*(void **)&f = s->stat_pointer;
			value = (long)f(NULL);
		}
	}
	return value;
}

/* A-B-C: A less B and C, asked one after the other as a server does */
void core_stat(const char *name, long *value)
{
	char part[200], *rest = part, *one;

	snprintf(part, sizeof part, "%s", name);
	*value = one_stat(strsep(&rest, "-"));
	while ((one = strsep(&rest, "-")) != NULL)
		*value -= one_stat(one);
}

/* ---- management: the host plays no commands, but the module looks for what makes their answers ---- */
os_mi_response *init_mi_result_object(os_mi_item **object) { (void)object; abort(); }
os_mi_item *add_mi_array(os_mi_item *to, char *name, int len) { (void)to; (void)name; (void)len; abort(); }
os_mi_item *add_mi_object(os_mi_item *to, char *name, int len) { (void)to; (void)name; (void)len; abort(); }
int add_mi_string(os_mi_item *to, char *name, int len, const char *s, int n) { (void)to; (void)name; (void)len; (void)s; (void)n; abort(); }
int add_mi_number(os_mi_item *to, char *name, int len, double n) { (void)to; (void)name; (void)len; (void)n; abort(); }

/* ---- events for the outside ---- */
#define MAX_EVENTS 64
static char *event_name[MAX_EVENTS];
static int events;

os_event_id evi_publish_event(os_str name)
{
	for (int i = 0; i < events; i++)
		if (str_is(name, event_name[i]))
			return i;
	if (events == MAX_EVENTS)
		return OS_EVI_ERROR;
	event_name[events] = strndup(name.s, (size_t)name.len);
	return events++;
}

int evi_probe_event(os_event_id id)
{
	const char *at;
	size_t n;

	if (id < 0 || id >= events)
		return -1;
	n = strlen(event_name[id]);
	if (!strcmp(settings.subscribed, "all"))
		return 1;
	for (at = settings.subscribed; (at = strstr(at, event_name[id])); at += n)
		if ((at == settings.subscribed || at[-1] == ' ') && (!at[n] || at[n] == ' '))
			return 1;
	return 0;
}

#define FREE_LIST (1 << 30) /* of evi_get_params() */
#define RAISED (1 << 29)    /* who raises such a list gives it away */

os_evi_params *evi_get_params(void)
{
	os_evi_params *list = calloc(1, sizeof *list);

	list->flags = FREE_LIST;
	return list;
}

int evi_param_add(os_evi_params *list, const os_str *name, const void *value, int flags)
{
	os_evi_param *p = calloc(1, sizeof *p);

	if (list->flags & RAISED)
		host_abort("a parameter for an event that was raised");
	*p = (os_evi_param){.flags = flags, .name = *name};
	if (flags & OS_EVI_INT_VAL)
		p->val.n = *(const int *)value;
	else if (flags & OS_EVI_STR_VAL)
		p->val.s = *(const os_str *)value;
	else
		return -1;
	if (list->last)
		list->last->next = p;
	else
		list->first = p;
	list->last = p;
	if (odd("event_params")) /* the name before the value */
		memmove(&p->val, &(struct { os_str name; os_int_str val; }){p->name, p->val}, sizeof p->name + sizeof p->val);
	return 0;
}

void evi_free_params(os_evi_params *list)
{
	for (os_evi_param *p = list ? list->first : NULL, *next; p; p = next) {
		next = p->next;
		free(p);
	}
	free(list);
}

static int raise_event(os_event_id id, os_evi_params *params);

int evi_raise_event(os_event_id id, os_evi_params *params)
{
	bool given = params && params->flags & FREE_LIST;
	int rc;

	if (given)
		params->flags |= RAISED;
	rc = raise_event(id, params);
	if (given)
		evi_free_params(params);
	return rc;
}

static int raise_event(os_event_id id, os_evi_params *params)
{
	char line[200000];
	size_t n;

	if (id < 0 || id >= events) {
		LM_ERR("invalid event %d", id);
		return -1;
	}
	n = (size_t)snprintf(line, sizeof line, "%s", event_name[id]);
	for (os_evi_param *p = params ? params->first : NULL; p && n < sizeof line - 512; p = p->next) {
		n += (size_t)snprintf(line + n, sizeof line - n, " %.*s=", STR_FMT(p->name));
		if (p->flags & OS_EVI_INT_VAL) {
			n += (size_t)snprintf(line + n, sizeof line - n, "%d", p->val.n);
		} else if (!p->val.s.s) {
			n += (size_t)snprintf(line + n, sizeof line - n, "null");
		} else {
			int len = p->val.s.len < (int)(sizeof line - n - 300) ? p->val.s.len : (int)(sizeof line - n - 300);
			line[n++] = '"';
			for (int i = 0; i < len; i++)
				line[n++] = p->val.s.s[i] == '\n' || p->val.s.s[i] == 0 ? '?' : p->val.s.s[i];
			line[n++] = '"';
			line[n] = 0;
		}
	}
	if (evi_probe_event(id) <= 0)
		return 0;
	line[n++] = '\n';
	while (__sync_lock_test_and_set(&S->lock, 1))
		sched_yield();
	S->event_no++; /* also those that the recorder has no room for */
	if (S->event_len + n < sizeof S->events) {
		memcpy(S->events + S->event_len, line, n);
		S->event_len += n;
	}
	__sync_lock_release(&S->lock);
	return 0;
}

static const struct { int code; const char *text; } reasons[] = {
	{100, "Trying"}, {180, "Ringing"}, {183, "Session Progress"}, {200, "OK"}, {202, "Accepted"}, {302, "Moved Temporarily"},
	{400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"}, {407, "Proxy Authentication Required"},
	{408, "Request Timeout"}, {480, "Temporarily Unavailable"}, {481, "Call/Transaction Does Not Exist"}, {486, "Busy Here"},
	{487, "Request Terminated"}, {488, "Not Acceptable Here"}, {500, "Server Internal Error"}, {503, "Service Unavailable"},
	{600, "Busy Everywhere"}, {603, "Decline"},
};

const char *reason_text(int code)
{
	for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
		if (reasons[i].code == code)
			return reasons[i].text;
	return "Unknown";
}
