// SPDX-License-Identifier: Apache-2.0
/* UDP datagrams over loopback from another CPU; where they are received is set by lo's rps_cpus (net_rx.py).
 * Extra argument: gap between two in ns. Each gets its own interrupt and NET_RX while the receiver keeps up. */
#include "pulse.h"
#include <arpa/inet.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-udp");
	int64_t every_ns = argc > 7 ? atoll(argv[7]) : 20000;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	char payload[512] = {0};
	int receiver = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);

	pin(plan.other);
	if (receiver < 0 || sender < 0 || bind(receiver, (struct sockaddr *)&address, size) ||
	    getsockname(receiver, (struct sockaddr *)&address, &size) || connect(sender, (struct sockaddr *)&address, size))
		die("loopback socket");
	while (next_pulse(&plan)) {
		struct pulse pulse = {.t0 = now_ns()};
		int64_t next = pulse.t0, cpu = thread_cpu_ns();
		while ((pulse.t1 = now_ns()) < pulse.t0 + plan.pulse_ns) {
			if (pulse.t1 < next)
				continue;
			next = pulse.t1 + every_ns;
			if (send(sender, payload, sizeof(payload), 0) < 0)
				die("send");
			pulse.count++;
		}
		pulse.cpu_ns = thread_cpu_ns() - cpu;
		log_pulse(pulse);
		while (recv(receiver, payload, sizeof(payload), MSG_DONTWAIT) >= 0)
			;
	}
	return finish();
}
