/* The measure of all milters: libmilter with the callbacks that a counting milter needs, each of them empty.
 *
 * Usage: noop_milter SOCKET, such as inet:8892@127.0.0.1 */
#include <libmilter/mfapi.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static sfsistat on_connect(SMFICTX *context, char *host, _SOCK_ADDR *address)
{
    (void)context, (void)host, (void)address;
    return SMFIS_CONTINUE;
}

static sfsistat on_words(SMFICTX *context, char **words)
{
    (void)context, (void)words;
    return SMFIS_CONTINUE;
}

static sfsistat on_nothing(SMFICTX *context)
{
    (void)context;
    return SMFIS_CONTINUE;
}

/* `mail`: connection, MAIL and end of message only. `rcpt`: RCPT as well, with refused recipients. The second is
 * what a milter with recipient limits has to hear, so that each milter is compared with its like. */
static int hears_recipients;

static sfsistat on_negotiate(SMFICTX *context, unsigned long actions, unsigned long steps, unsigned long unused1,
                             unsigned long unused2, unsigned long *wanted_actions, unsigned long *wanted_steps,
                             unsigned long *wanted1, unsigned long *wanted2)
{
    (void)context, (void)actions, (void)unused1, (void)unused2;
    unsigned long unheard = SMFIP_NOHELO | SMFIP_NODATA | SMFIP_NOBODY | SMFIP_NOHDRS | SMFIP_NOEOH | SMFIP_NOUNKNOWN;
    if (hears_recipients)
        *wanted_steps = steps & (unheard | SMFIP_RCPT_REJ);
    else
        *wanted_steps = steps & (unheard | SMFIP_NORCPT);
    *wanted_actions = *wanted1 = *wanted2 = 0;
    return SMFIS_CONTINUE;
}

int main(int count, char **words)
{
    if (count != 3)
        return fprintf(stderr, "usage: noop_milter SOCKET mail|rcpt\n"), EX_USAGE;
    hears_recipients = strcmp(words[2], "rcpt") == 0;
    struct smfiDesc description = {
        .xxfi_name = "noop", .xxfi_version = SMFI_VERSION, .xxfi_connect = on_connect, .xxfi_envfrom = on_words,
        .xxfi_envrcpt = hears_recipients ? on_words : NULL, .xxfi_eom = on_nothing, .xxfi_abort = on_nothing,
        .xxfi_close = on_nothing, .xxfi_negotiate = on_negotiate,
    };
    if (smfi_setconn(words[1]) != MI_SUCCESS || smfi_register(description) != MI_SUCCESS)
        return EX_UNAVAILABLE;
    smfi_setbacklog(1024);
    return smfi_opensocket(0) == MI_SUCCESS && smfi_main() == MI_SUCCESS ? 0 : EX_UNAVAILABLE;
}
