/* An accounting server for freeDiameter: notes every Accounting-Request as it came, then answers it.
 *
 * The environment says more: ACCT_FILE, where the requests go, a line of hexadecimal digits each; ACCT_SWALLOW=N, no
 * answer to the first N; ACCT_DELAY_US, a pause before each answer. */
#include <fcntl.h>
#include <freeDiameter/extension.h>
#include <stdlib.h>
#include <unistd.h>

static struct disp_hdl *handle;
static long delay_us, swallow, count;
static int file = -1;

static void note(struct msg *msg)
{
	uint8_t *bytes;
	size_t length, i;
	char *line;

	if (fd_msg_bufferize(msg, &bytes, &length))
		return;
	line = malloc(2 * length + 2);
	for (i = 0; i < length; i++)
		sprintf(line + 2 * i, "%02x", bytes[i]);
	line[2 * length] = '\n';
	/* In one piece: the test may kill this server at any time. */
	if (write(file, line, 2 * length + 1) < 0)
		abort();
	free(line);
	free(bytes);
}

static int on_acr(struct msg **msg, struct avp *avp, struct session *session, void *opaque, enum disp_action *action)
{
	const char *copied[] = { "Accounting-Record-Type", "Accounting-Record-Number" };
	struct msg *request = *msg;
	struct dict_object *model;
	struct avp *found, *copy;
	struct avp_hdr *value;
	struct msg_hdr *header;
	int i;

	(void)avp, (void)session, (void)opaque, (void)action;
	CHECK_FCT(fd_msg_hdr(request, &header));
	if (!(header->msg_flags & CMD_FLAG_REQUEST))
		return 0;
	note(request);
	if (++count <= swallow) {
		fd_msg_free(request);
		*msg = NULL;
		return 0;
	}
	if (delay_us)
		usleep(delay_us);
	CHECK_FCT(fd_msg_new_answer_from_req(fd_g_config->cnf_dict, msg, 0));
	CHECK_FCT(fd_msg_rescode_set(*msg, "DIAMETER_SUCCESS", NULL, NULL, 1));
	for (i = 0; i < 2; i++) {
		CHECK_FCT(fd_dict_search(fd_g_config->cnf_dict, DICT_AVP, AVP_BY_NAME, copied[i], &model, ENOENT));
		CHECK_FCT(fd_msg_search_avp(request, model, &found));
		if (!found)
			continue;
		CHECK_FCT(fd_msg_avp_hdr(found, &value));
		CHECK_FCT(fd_msg_avp_new(model, 0, &copy));
		CHECK_FCT(fd_msg_avp_setvalue(copy, value->avp_value));
		CHECK_FCT(fd_msg_avp_add(*msg, MSG_BRW_LAST_CHILD, copy));
	}
	CHECK_FCT(fd_msg_send(msg, NULL, NULL));
	return 0;
}

static int acct_echo_main(char *conffile)
{
	struct disp_when when;
	const char *e;

	(void)conffile;
	memset(&when, 0, sizeof when);
	if ((e = getenv("ACCT_FILE")))
		file = open(e, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if ((e = getenv("ACCT_DELAY_US")))
		delay_us = atol(e);
	if ((e = getenv("ACCT_SWALLOW")))
		swallow = atol(e);
	CHECK_FCT(fd_dict_search(fd_g_config->cnf_dict, DICT_APPLICATION, APPLICATION_BY_NAME, "Diameter Base Accounting", &when.app, ENOENT));
	CHECK_FCT(fd_dict_search(fd_g_config->cnf_dict, DICT_COMMAND, CMD_BY_NAME, "Accounting-Request", &when.command, ENOENT));
	CHECK_FCT(fd_disp_register(on_acr, DISP_HOW_CC, &when, NULL, &handle));
	CHECK_FCT(fd_disp_app_support(when.app, NULL, 0, 1));
	return 0;
}

void fd_ext_fini(void)
{
	fd_disp_unregister(&handle, NULL);
}

EXTENSION_ENTRY("acct_echo", acct_echo_main);
