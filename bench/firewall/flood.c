/* Sends frames that it reads once from a file, round and round, and prints the nanoseconds per frame.
 *
 * A veth carries each frame through the peer's whole receive path within the send call, so the time of the
 * send is the time of the path; what the send itself costs is measured with a rule that drops at once.
 * usage: flood INTERFACE FRAME_BYTES COUNT < FRAMES */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 16, BATCH = 64 };

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	size_t size = strtoul(argv[2], NULL, 10);
	long count = atol(argv[3]);
	unsigned char *frames = malloc(MOST * size);
	size_t made = fread(frames, size, MOST, stdin);
	int s = socket(AF_PACKET, SOCK_RAW, 0), yes = 1;
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
				  .sll_ifindex = if_nametoindex(argv[1]) };
	if (!made || s < 0 || setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof yes) ||
	    bind(s, (struct sockaddr *)&to, sizeof to))
		return perror("flood"), 1;
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH];
	struct timespec began, ended;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
	for (long sent = 0; sent < count;) {
		for (int i = 0; i < BATCH; i++) {
			parts[i] = (struct iovec){ frames + ((sent + i) % made) * size, size };
			messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
		}
		int n = sendmmsg(s, messages, BATCH, 0);
		if (n < 0)
			return perror("flood: send"), 1;
		sent += n;
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
	double ns = (ended.tv_sec - began.tv_sec) * 1e9 + (ended.tv_nsec - began.tv_nsec);
	printf("%.1f\n", ns / count);
	return 0;
}
